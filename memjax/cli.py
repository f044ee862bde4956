"""`memjax COMMAND`: one console command for all of memjax's modules.

memjax train --config=configs/digits_randlabel.py --workdir=runs/digits_randlabel
memjax analyze --workdir=runs/digits_randlabel --passes=gradients,critical

`memjax COMMAND --help` lists a command's flags. It is the same as `python -m` with the module.
"""

import ast
import difflib
import importlib.util
import os
import pathlib
import re
import runpy
import sys
from typing import NoReturn

import memjax
from memjax.version import __version__

# Those that this version has are offered.
_MODULES = {
    "train": "memjax.main",
    "analyze": "memjax.analyze",
    "sweep": "memjax.sweep",
    "reproduce": "memjax.reproduce",
    "compare": "memjax.compare",
    "audit": "memjax.audit",
    "prepare": "memjax.data.prepare",
}
_SHELLS = ("bash", "zsh")
_COMPLETION = """\
_memjax() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} completion --help --version"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o nospace -F _memjax memjax
"""


def commands() -> dict[str, pathlib.Path]:
    """Returns the file of each command that this version has."""
    found = {}
    for name, module in _MODULES.items():
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin:
            found[name] = pathlib.Path(spec.origin)
    return found


def overview() -> str:
    """Returns what `memjax --help` prints."""
    found = commands()
    width = max(map(len, (*found, "completion")))
    listed = [f"  {name:<{width}}  {_first_line(path)}" for name, path in found.items()]
    about = (memjax.__doc__ or "").removeprefix("memjax: ").strip()
    return "\n".join(
        [
            f"memjax {__version__}: {about}",
            "",
            "usage: memjax COMMAND [--FLAG=VALUE ...]",
            "",
            *listed,
            f"  {'completion':<{width}}  Prints what makes a shell complete memjax (bash or zsh).",
            "",
            "memjax COMMAND --help lists the flags of a command.",
        ]
    )


def completion(shell: str) -> str:
    """Returns the script that makes a shell complete commands, their flags, and files.

    Args:
        shell: one of `_SHELLS`: bash, or zsh, which reads the same through its bashcompinit.
    """
    cases = "\n".join(
        f'      {name}) words="{" ".join(_flags(path))}" ;;' for name, path in commands().items()
    )
    script = _COMPLETION.format(commands=" ".join(commands()), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def main() -> None:
    """Runs the command that the first word names, with its own flags and exit code."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "-help", "help"):
        print(overview())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"memjax {__version__}")
        return
    if words[0] == "completion":
        shell = words[1] if len(words) > 1 else os.path.basename(os.environ.get("SHELL", ""))
        if shell not in _SHELLS:
            _fail(f"completion {shell}: must be one of {', '.join(_SHELLS)}")
        print(completion(shell))
        return
    if words[0] not in commands():
        _fail(_unknown(words[0]))
    # As python -m has it: modules of the user's are found where the command is given.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.argv = [f"memjax {words[0]}", *words[1:]]
    runpy.run_module(_MODULES[words[0]], run_name="__main__", alter_sys=True)


def __doc_source(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def _fail(line: str) -> NoReturn:
    print(f"memjax: {line}", file=sys.stderr)
    sys.exit(2)


def _first_line(path: pathlib.Path) -> str:
    """Returns the first line of a module's docstring, without importing it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _flags(path: pathlib.Path) -> list[str]:
    """Returns the flags that a module defines, from its text: importing it would take seconds."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text)
    names += re.findall(r'add_argument\(\s*"--(\w+)"', text)
    if "define_config_flag" in text:
        names.append("config")
    return sorted(f"--{name}=" for name in set(names))


def _unknown(word: str) -> str:
    known = [*commands(), "completion"]
    close = difflib.get_close_matches(word, [*known, *("main",)], n=1)
    close = ["train"] if close == ["main"] else close
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{word!r}: no such command; {hint}there are: {', '.join(known)}"


if __name__ == "__main__":
    main()
