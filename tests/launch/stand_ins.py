"""What the stand-ins do: python stand_ins.py PROGRAM ARGUMENTS...

Answers are read from files in STAND_IN_FOLDER; every call is recorded there.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(os.environ.get("STAND_IN_FOLDER", os.curdir))


def record(program: str, arguments: list[str]) -> None:
    with open(FOLDER / f"{program}.calls", "a") as file:
        file.write(json.dumps(arguments) + "\n")


def answer(name: str, default: str) -> str:
    """Returns the next line of a file of answers; its last line is kept."""
    path = FOLDER / name
    if not path.exists():
        return default
    first, _, rest = path.read_text().partition("\n")
    if rest:
        path.write_text(rest)
    return first


def run_processes(commands: list[list[str]], environments: list[dict[str, str]]) -> int:
    """Runs commands side by side; returns the largest exit code, signals as a shell does."""
    processes = [
        subprocess.Popen(command, env={**os.environ, **environment})
        for command, environment in zip(commands, environments, strict=True)
    ]
    codes = [process.wait() for process in processes]
    return max(128 - code if code < 0 else code for code in codes)


def slurm_environment(process_id: int, num_processes: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": os.environ["STAND_IN_JOB_ID"],
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(num_processes),
        "SLURM_PROCID": str(process_id),
        "SLURM_LOCALID": str(process_id),
    }


def gcloud(arguments: list[str]) -> int:
    error = answer("gcloud_error", "")
    if error:
        print(error, file=sys.stderr)
        return 1
    words = [word for word in arguments if not word.startswith("--")]
    action = words[3] if len(words) > 3 else ""
    if action == "describe":
        kind = words[2]
        state = answer(f"{kind}.state", "")
        if not state:
            print("ERROR: (gcloud.describe) NOT_FOUND: Resource was not found.", file=sys.stderr)
            return 1
        print(state)
        print(answer("gcloud_warning", ""), file=sys.stderr)
    elif action == "create":
        (FOLDER / "queued-resources.state").write_text("WAITING_FOR_RESOURCES\nACTIVE")
        (FOLDER / "tpu-vm.state").write_text("CREATING\nREADY")
    elif action == "delete":
        (FOLDER / "queued-resources.state").write_text("")
        (FOLDER / "tpu-vm.state").write_text("")
    elif action == "scp":
        return int(answer("scp.code", "0"))
    elif action == "ssh":
        command = next(word for word in arguments if word.startswith("--command="))
        return ssh(command.removeprefix("--command="))
    return 0


def ssh(command: str) -> int:
    if ".memjax.pid" not in command:  # the installation
        return int(answer("ssh.code", "0"))
    homes = [FOLDER / f"worker{i}" for i in range(2)]
    environments = [
        {**slurm_environment(i, 2), "HOME": str(home), "WORKER": str(i)}
        for i, home in enumerate(homes)
    ]
    commands = []
    for home in homes:
        (home / "memjax/bin").mkdir(parents=True, exist_ok=True)
        commands.append(["bash", "-c", f"cd {home}; {command}"])
    return run_processes(commands, environments)


def srun(arguments: list[str]) -> int:
    command = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
    num_tasks = int(os.environ["SLURM_NTASKS"])
    environments = [slurm_environment(i, num_tasks) for i in range(num_tasks)]
    return run_processes([arguments[command:]] * num_tasks, environments)


def sbatch(arguments: list[str]) -> int:
    """Runs a job script as Slurm would, each task of an array in turn, and again if requeued."""
    place = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
    script = pathlib.Path(arguments[place])
    directives = re.findall(r"^#SBATCH (\S+)$", script.read_text(), re.MULTILINE)
    options = {}
    for word in [*directives, *arguments[:place]]:
        name, _, value = word.removeprefix("--").partition("=")
        options[name] = value
    (FOLDER / "options.json").write_text(json.dumps(options))
    job_id = os.environ["STAND_IN_JOB_ID"]
    environment = {
        "SLURM_JOB_ID": job_id,
        "SLURM_NTASKS": str(int(options["nodes"]) * int(options["ntasks-per-node"])),
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        "SLURM_GPUS_ON_NODE": options["gpus-per-node"],
    }
    if "array" not in options:
        return run_job([str(script), *arguments[place + 1 :]], environment)
    first, last = map(int, options["array"].partition("%")[0].split("-"))
    codes = []
    for index in range(first, last + 1):
        environment |= {
            "SLURM_ARRAY_JOB_ID": job_id,
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_ARRAY_TASK_MIN": str(first),
            "SLURM_ARRAY_TASK_MAX": str(last),
            "SLURM_ARRAY_TASK_COUNT": str(last - first + 1),
        }
        codes.append(run_job([str(script), *arguments[place + 1 :]], environment))
    return max(codes)


def run_job(command: list[str], environment: dict[str, str]) -> int:
    requeued = FOLDER / "scontrol.calls"
    restarts = 0
    while True:
        before = requeued.read_text() if requeued.exists() else ""
        again = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        code = run_processes([["bash", *command]], [{**environment, **again}])
        if (requeued.read_text() if requeued.exists() else "") == before:
            return code
        restarts += 1


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    record(program, rest)
    act = {"gcloud": gcloud, "srun": srun, "sbatch": sbatch}.get(program)
    sys.exit(act(rest) if act else 0)
