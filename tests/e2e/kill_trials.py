"""Kills `losa-llama adapt` on a real model at random moments and resumes it: the result must be the one of a run that
nobody disturbed, bit for bit, and the same for one thread and for all.

    python tests/e2e/kill_trials.py --tool build/release/examples/llama/losa-llama \
        --model build/smollm2/model --train build/smollm2/valid.u16 -- --sparsity 0.5 --context 64 --train-tokens 1280 \
        --calibration-sequences 4

What stands after -- goes to `adapt`. Every trial kills the run once or several times (SIGKILL, at a random moment of
what is left), resumes with a random number of threads, and compares every file of the result, report.json without its
object `run`. With --kills the trials go on until so many kills have met a run. Not part of ctest: it takes as long as a
dozen or two of the runs. Exits 1 if a trial fails.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import support  # noqa: E402


class Trials(support.unittest.TestCase):
    assert_same_files = support.TestCase.assert_same_files
    assert_same_result = support.TestCase.assert_same_result


def start(o, out, threads, *more):
    return subprocess.Popen([str(o.tool), "adapt", "--model", str(o.model), "--train", str(o.train), "--out", str(out),
                             "--threads", str(threads), *o.rest, *more], stdout=subprocess.DEVNULL)


def finish(process):
    if process.wait() != 0:
        sys.exit(f"kill_trials: the run failed with {process.returncode}")


def trial(o, number, whole, expected, threads):
    """Returns the moments of the kills and what was saved by then."""
    out, moments, left = o.work / f"trial-{number}", [], whole
    resume = []
    while True:
        process = start(o, out, o.random.randint(1, threads), *resume)
        moment = o.random.uniform(0, left)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            saved = (out / ".partial" / "state.safetensors").exists()
            moments.append(f"{moment:.1f} s, {'state' if saved else 'nothing'} saved")
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            sys.exit(f"kill_trials: trial {number} failed with {process.returncode}")
        resume = ["--resume"]
        if o.random.random() < 0.5:  # let it end; else it may be killed again
            finish(start(o, out, o.random.randint(1, threads), *resume))
            break
        left /= 2
    Trials().assert_same_result(out, expected)
    if (out / ".partial").exists():
        sys.exit(f"kill_trials: trial {number} left .partial behind")
    resumes = json.loads((out / "report.json").read_text())["run"]["resumes"]
    shutil.rmtree(out)
    return moments, resumes


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tool", type=pathlib.Path, default=pathlib.Path("build/release/examples/llama/losa-llama"))
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--train", type=pathlib.Path, required=True)
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/kill-trials"))
    p.add_argument("--trials", type=int, default=10)
    p.add_argument("--kills", type=int, default=0, help="go on with trials until so many runs were killed")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("rest", nargs="*", help="options of adapt, after --")
    o = p.parse_args()
    o.random = random.Random(o.seed)
    threads = os.cpu_count() or 1
    shutil.rmtree(o.work, ignore_errors=True)
    o.work.mkdir(parents=True)

    expected = o.work / "expected"
    began = time.monotonic()
    finish(start(o, expected, threads))
    whole = time.monotonic() - began
    print(f"undisturbed, {threads} threads: {whole:.0f} s", flush=True)
    finish(start(o, o.work / "one", 1))
    Trials().assert_same_result(o.work / "one", expected)
    print("undisturbed, 1 thread: the same bits", flush=True)
    number = kills = 0
    while number < o.trials or kills < o.kills:
        number += 1
        moments, resumes = trial(o, number, whole, expected, threads)
        kills += len(moments)
        killed = "; ".join(moments) or "not at all: it was done before"
        print(f"trial {number}: killed {killed}; resumed from a state {resumes} times; the same bits", flush=True)
    shutil.rmtree(o.work)
    print(f"{number} trials with {kills} kills, all the same bits")


if __name__ == "__main__":
    main()
