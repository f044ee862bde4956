"""Fields of the user's own model, from the command line."""

import ast
import re
from typing import Any

from memjax.errors import InputError


def take_model_fields(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes --config.model.FIELD=VALUE out of a command line.

    Which fields there are, and of what types, the network's class knows, and no config file.
    """
    rest: list[str] = []
    found: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        match = re.fullmatch(r"--?config\.model\.(?:fields\.)?([A-Za-z_]\w*)(?:=(.*))?", word, re.S)
        if not match:
            rest.append(word)
            continue
        name, text = match.groups()
        if text is None:
            text = next(words, None)
        if text is None:
            raise InputError(f"--config.model.{name}: needs a value, --config.model.{name}=VALUE")
        found[name] = text if name == "name" else _literal(text)
    return rest, found


def _literal(text: str) -> Any:
    """Returns what a Python literal says; other words are themselves."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def set_model_fields(config: Any, fields: dict[str, Any]) -> None:
    """Sets fields of config.model; another network drops the fields of the file's own.

    Args:
        config: a ConfigDict with a section `model`, changed in place.
        fields: name and fields, from `take_model_fields`.
    """
    model = config.model.to_dict()
    model |= model.pop("fields", None) or {}
    name = fields.get("name", model.get("name"))
    if name != model.get("name"):
        model = {}
    with config.unlocked():
        config.model = {**model, **fields, "name": name}
