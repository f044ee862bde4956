"""The same config gives the same bits, twice: metrics, checkpoints, dynamics and tables."""

from tests import command_line
from tests.faults import difference, result_of


def test_the_same_config_gives_the_same_bits_twice(tmp_path):
    found = []
    for name in ("one", "other"):
        workdir = tmp_path / name
        flags = [*command_line.SMALL_RUN, f"--workdir={workdir}"]
        done = command_line.run("memjax.main", *flags)
        assert done.returncode == 0, done.stderr
        passes = "--passes=gradients,difficulty"
        done = command_line.run("memjax.analyze", f"--workdir={workdir}", passes)
        assert done.returncode == 0, done.stderr
        found.append(result_of(workdir))
    assert {"metrics.jsonl", "examples.parquet", "analysis/gradients.parquet"} <= set(found[0])
    assert any(name.startswith("dynamics/") for name in found[0])
    assert any(name.startswith("checkpoints/") for name in found[0])
    assert difference(*found) == ""
