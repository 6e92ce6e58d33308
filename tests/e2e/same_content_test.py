"""A run goes on, and is known to be complete, by the content of its model and its text, whatever they are called."""

import json
import os
import shutil

import support
from support import QUICK


class SameContent(support.TestCase):
    def setUp(self):
        super().setUp()
        support.write_model(self.tmp / "m")
        support.write_tokens(self.tmp / "t")
        self.run_there("before", model="m", train="t")

    def arguments(self, out, model, train, *more):
        quick = ["--sparsity", "0.5", "--train-tokens", "600", "--schedule-steps", "2", "--early-share", "0.4"]
        return ["adapt", "--model", model, "--train", train, "--out", out, *quick, "--context", "50", "--batch", "1", *QUICK,
                *more]

    def run_there(self, out, *more, model, train):
        return self.succeed(*self.arguments(out, model, train, *more), cwd=self.tmp)

    def names(self):
        (self.tmp / "link").symlink_to("m")
        (self.tmp / "text-link").symlink_to("t")
        (self.tmp / "elsewhere").mkdir()
        shutil.copytree(self.tmp / "m", self.tmp / "elsewhere" / "copy")
        shutil.copy(self.tmp / "t", self.tmp / "elsewhere" / "t2")
        yield from (("./m", "./t"), ("m/", "t"), (self.tmp / "m", self.tmp / "t"), ("link", "text-link"),
                    ("elsewhere/../m", "elsewhere/../t"), ("elsewhere/copy", "elsewhere/t2"), ("m//", "t"))

    def stopped(self, out):
        """A state in the middle of the run that `before` finished."""
        environment = os.environ | {"LD_PRELOAD": os.environ["LOSA_E2E_FAULTS"], "FAULT": "kill", "FAULT_AT": "60"}
        support.call(*self.arguments(out, "m", "t"), cwd=self.tmp, env=environment)
        state = self.tmp / out / ".partial" / "state.safetensors"
        self.assertTrue(state.exists())
        return state

    def test_complete(self):
        for model, train in self.names():
            with self.subTest(model=str(model), train=str(train)):
                done = self.run_there("before", "--resume", model=model, train=train)
                self.assertEqual(done.stdout, "before is complete\n")
        self.assertEqual(self.run_there("before", "--resume", "--token-bits", "8", model="m", train="t").stdout,
                         "before is complete\n")

    def test_stopped(self):
        if "LOSA_E2E_FAULTS" not in os.environ:
            self.skipTest("LOSA_E2E_FAULTS does not name the library of faults.cpp")
        for number, (model, train) in enumerate(self.names()):
            with self.subTest(model=str(model), train=str(train)):
                out = f"out-{number}"
                self.stopped(out)
                self.run_there(out, "--resume", model=model, train=train)
                # The identical result, names in the report included: those it was started with.
                self.assert_same_result(self.tmp / out, self.tmp / "before")
                self.assertEqual(support.report(self.tmp / out)["run"]["resumes"], 1)

    def test_other_content_is_refused(self):
        support.write_model(self.tmp / "m2", seed=7)
        support.write_tokens(self.tmp / "t2", seed=7)
        for model, train, says in (("m2", "t", "model_hash"), ("m", "t2", "tokens_hash")):
            done = self.refuse(1, *self.arguments("before", model, train, "--resume"), cwd=self.tmp, says=says)
            self.assertNotIn("model \"", done.stderr)
        self.refuse(1, *self.arguments("before", "m", "t", "--resume", "--token-bits", "16"), cwd=self.tmp, says="token 0 is")

    def test_reports_keep_the_names(self):
        arguments = support.report(self.tmp / "before")["arguments"]
        self.assertEqual((arguments["model"], arguments["train"]), ("m", "t"))

    def test_fingerprints_of_other_names(self):
        """Such as an earlier version has written, which compared names."""
        report = self.tmp / "before" / "report.json"
        told = json.loads(report.read_text())
        print_ = json.loads(told["fingerprint"])
        for change in ({"model": "/gone", "train": "../gone", "token_bits": 8}, {"model": None}):
            told["fingerprint"] = json.dumps(print_ | change)
            report.write_text(json.dumps(told))
            self.run_there("before", "--resume", model="m", train="t")
        for dropped in ("model", "train", "token_bits"):
            told["fingerprint"] = json.dumps({key: value for key, value in print_.items() if key != dropped})
            report.write_text(json.dumps(told))
            self.run_there("before", "--resume", model="m", train="t")
        told["fingerprint"] = json.dumps(print_ | {"seed": 9})
        report.write_text(json.dumps(told))
        self.refuse(1, *self.arguments("before", "m", "t", "--resume"), cwd=self.tmp, says="seed 9, now 0")


if __name__ == "__main__":
    support.main()
