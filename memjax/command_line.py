"""What the entry points share: flags parsed with one-line errors, and exit codes.

Exit codes: 0 done; 2 bad input, nothing written; 3 the loss was not finite; 4 some points of a
sweep failed; 75 another process of the run was lost (the same command goes on); 143 stopped by
SIGTERM (130 by Ctrl-C), all saved. Nothing heavy is imported here, so that --help is quick.
"""

import contextlib
import errno
import importlib.util
import io
import logging
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging as absl_logging
from ml_collections import config_flags

from memjax.errors import Diverged, InputError, ToldByMain
from memjax.model_flags import set_model_fields, take_model_fields

flags.DEFINE_string(
    "compilation_cache", "", "Folder or gs:// path that keeps compiled programs for later runs."
)
flags.DEFINE_bool(
    "lock", True, "Lock the folders written to; --nolock: I take care that nobody else writes them."
)


def find_config(path: str) -> str:
    """Returns the path of a config file: as given, or among those that memjax ships.

    Only a bare name or configs/NAME.py means a shipped one: another path that does not exist is a
    mistake, not a wish for a file of that name from elsewhere.

    Raises:
      InputError: if there is none, with the nearest name.
    """
    from memjax.config import nearest

    name, _, variant = path.partition(":")
    shipped = config_folder()
    candidates = [pathlib.Path(name)]
    if "/" not in name.removeprefix("configs/"):
        candidates.append(shipped / pathlib.Path(name).name)
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".py":
            return f"{candidate}:{variant}" if variant else str(candidate)
    known = [f"configs/{found}" for found in config_names()]
    raise InputError(f"--config={path}: no such config file; {nearest(name, known)}")


def config_folder() -> pathlib.Path:
    """Returns where the shipped configs lie: beside the checkout, or inside the wheel."""
    beside = pathlib.Path(__file__).parent.parent / "configs"
    if beside.is_dir():
        return beside
    spec = importlib.util.find_spec("memjax.configs")
    if spec is None or not spec.submodule_search_locations:
        return beside
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def config_names() -> list[str]:
    """Returns the shipped config files."""
    return sorted(p.name for p in config_folder().glob("*.py") if p.name != "__init__.py")


def config_file_folder() -> pathlib.Path:
    """Returns the folder of --config, where paths in the file may begin."""
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    return pathlib.Path(path.partition(":")[0]).absolute().parent


def define_config_flag() -> None:
    """Defines --config and its overrides (--config.train.batch_size=64)."""
    config_flags.DEFINE_config_file("config", None, "The config file, FILE.py or FILE.py:quick.")


def define_deterministic_flag() -> None:
    """Defines --deterministic, for what has no config of its own."""
    flags.DEFINE_bool(
        "deterministic", True, "The same bits at every run, which costs speed on GPU."
    )


def choose_kernels(deterministic: bool) -> None:
    """Tells XLA whether GPUs are to be deterministic; before anything else of JAX."""
    from memjax.runtime.determinism import deterministic_kernels

    deterministic_kernels(deterministic)


def define_process_flags() -> None:
    """Defines --coordinator, --num_processes and --process_id, for a run of many processes."""
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT where process 0 listens; not needed where a cluster says so."
    )
    flags.DEFINE_integer(
        "num_processes", 0, "Processes of the run; 1: this one alone; 0: as the cluster says."
    )
    flags.DEFINE_integer("process_id", -1, "Which process of the run this is, from 0.")


def join_processes() -> None:
    """Makes this process one of its run; before anything else of JAX."""
    from memjax.runtime.distributed import initialize

    given = flags.FLAGS
    initialize(given.coordinator, given.num_processes, given.process_id)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the command line; a mistake is one line and exit code 2."""
    argv = list(argv)
    try:
        argv, model_fields = take_model_fields(argv)
        for place, word in enumerate(argv):
            flag, equals, value = word.partition("=")
            if flag in ("--config", "-config"):
                if equals:
                    argv[place] = f"--config={find_config(value)}"
                elif place + 1 < len(argv):
                    argv[place + 1] = find_config(argv[place + 1])
        with _process_arguments(argv):
            rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise InputError(f"{rest[1]!r}: not understood; every flag begins with --")
        if model_fields:
            if not _is_given("config"):
                name = next(iter(model_fields))
                raise InputError(f"--config.model.{name}: needs --config=FILE.py as well")
            set_model_fields(flags.FLAGS["config"].value, model_fields)
        return rest
    except InputError as error:
        fail(error)
    except Exception as error:  # a config file runs code of the user's
        fail(InputError(_in_words(error)))


@contextlib.contextmanager
def _process_arguments(argv: list[str]) -> Iterator[None]:
    """Makes these the process's arguments for a while: ml_collections looks for overrides there."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def _is_given(flag: str) -> bool:
    return flag in flags.FLAGS and flags.FLAGS[flag].value is not None


def _in_words(error: Exception) -> str:
    """Returns one line for whatever absl, ml_collections or a config file raised."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"--{error.flagname}: {_unknown_flag(error)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, KeyError | AttributeError):  # ml_collections' locked ConfigDict
        return _unknown_field(error)
    if any(line.startswith("Traceback") for line in lines):  # of a config file that failed
        return lines[-1].removeprefix("memjax.errors.InputError: ")
    return " ".join(lines).removeprefix("flag ") or type(error).__name__


def _unknown_field(error: Exception) -> str:
    text = str(error.args[0]) if error.args else ""
    guess = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
    if guess:
        return f"--config: unknown field {guess[2]!r}; did you mean {guess[1]}?"
    name = text.strip("\"'")
    return f"--config: unknown field {name!r}; see memjax/config.py for what there is"


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    from memjax.config import nearest

    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return f"unknown flag; {nearest(error.flagname, [str(flag.name) for flag in own])}"


def fail(error: Exception, code: int = 2) -> NoReturn:
    """Prints one line on stderr and exits."""
    sys.exit(_tell(error, code))


def _tell(error: Exception, code: int) -> int:
    print(f"memjax: {error}", file=sys.stderr, flush=True)
    return code


def required(name: str, example: str) -> Any:
    """Returns a flag's value, or fails with an example of it."""
    value = flags.FLAGS[name].value
    if value is None or value == "":  # an unset variable of a script, which is not the folder here
        what = "missing" if value is None else "empty"
        fail(InputError(f"--{name} is {what}; for example --{name}={example}"))
    return value


def run_entry_point(main: Callable[[], None]) -> None:
    """Parses the flags and runs main, its errors as one line and an exit code."""

    def guarded(argv: Sequence[str]) -> None:
        # orbax logs how it was set up, and every error that it also raises; memjax's own warnings
        # stay.
        absl_logging.set_verbosity(absl_logging.FATAL)
        logging.getLogger("memjax").setLevel(logging.WARNING)
        if flags.FLAGS.compilation_cache:
            import jax

            jax.config.update("jax_compilation_cache_dir", flags.FLAGS.compilation_cache)
        _check_buckets()
        if not flags.FLAGS.lock:
            from memjax.runtime.locks import use_locks

            use_locks(False)
        code = _run(main)
        distributed = _distributed()
        if distributed:
            distributed.leave(code)
        sys.exit(code)

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _unbroken(stream))
    try:
        app.run(guarded, flags_parser=parse)
    except KeyboardInterrupt:  # while the config file was read
        fail(InputError("interrupted"), 130)


class _Unbroken(io.FileIO):
    """A pipe that need not be read to its end (`| head`): a run of hours does not end with it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _unbroken(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw: Any = _Unbroken(stream.fileno(), "w", closefd=False)
    at_once, by_line = stream.write_through, stream.line_buffering
    # With PYTHONUNBUFFERED nothing waits in a buffer.
    buffer = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, line_buffering=by_line, write_through=at_once
    )


def _check_buckets() -> None:
    """Fails if a folder is a bucket's, and nothing is installed that reads buckets."""
    for name in ("workdir", "compilation_cache"):
        value = flags.FLAGS[name].value or ""
        if value.startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
            fail(InputError(f"--{name}={value}: needs gcsfs; pip install gcsfs"))


def _run(main: Callable[[], None]) -> int:
    """Returns the exit code of main, its errors told in one line."""
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ToldByMain:
        return 2
    except InputError as error:
        return _tell(error, 2)
    except Diverged as error:  # all processes of a run see it
        distributed = _distributed()
        return 3 if distributed and not distributed.is_main_process() else _tell(error, 3)
    except KeyboardInterrupt:
        return _tell(InputError("interrupted"), 130)
    except Exception as error:
        if _is_disk_full(error):
            return _tell(OSError("no space left on the disk; what was saved before is kept"), 2)
        lost = _distributed() and sys.modules["memjax.runtime.lost"].as_process_lost(error)
        if lost:
            return _tell(lost, lost.exit_code)
        traceback.print_exc()
        return 1
    return 0


def _distributed() -> Any:
    """Returns memjax.runtime.distributed if it is in use: it imports JAX."""
    return sys.modules.get("memjax.runtime.distributed")


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):  # tensorstore has no errno
            return True
        error = error.__cause__ or error.__context__
    return False
