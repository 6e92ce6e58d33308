"""What a model's directory says is read where it is needed, as transformers reads it; what is not needed refuses nothing;
and a file that is something else is told by name."""

import gzip
import io
import json
import os
import shutil
import zipfile

import numpy as np

import support
from support import QUICK, Stored, small_config

INDEX = "model.safetensors.index.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 269060552\n"


class ReadingCase(support.TestCase):
    def setUp(self):
        super().setUp()
        self.train = support.write_tokens(self.tmp / "train.bin")

    def write(self, name="model", **options):
        shutil.rmtree(self.tmp / name, ignore_errors=True)
        return support.write_model(self.tmp / name, **options)

    def evaluate(self, model):
        return ["eval", "--model", model, "--tokens", self.train, "--context", "50", "--sequences", "2"]

    def nll(self, model):
        return json.loads(self.succeed(*self.evaluate(model), "--json", "-").stdout)["mean_nll"]

    def ids(self, model, *arguments):
        done = self.succeed("generate", "--model", model, "--prompt-ids", "1,2,3", "--tokens", "8", "--json", "-", *arguments)
        return json.loads(done.stdout)["ids"]


class EndTokens(ReadingCase):
    """Text ends where transformers 5.24 ends it; an end that only config.json has counts too, whatever file is beside."""

    def setUp(self):
        super().setUp()
        self.model = self.write()
        self.usual = self.ids(self.model)
        self.second, self.fourth = self.usual[1], self.usual[3]
        self.assertEqual(len(self.usual), 8)
        self.assertEqual([self.usual.index(self.second), self.usual.index(self.fourth)], [1, 3])

    def describe(self, config=None, generation=None):
        (self.model / "config.json").write_text(json.dumps(small_config(**config or {})))
        path = self.model / "generation_config.json"
        path.unlink(missing_ok=True)
        if generation is not None:
            path.write_bytes(generation if isinstance(generation, bytes) else json.dumps(generation).encode())

    def test_where_text_ends(self):
        second, fourth = self.second, self.fourth
        cases = [
            (2, {"eos_token_id": second}, None),
            (2, {}, {"eos_token_id": second}),
            (2, {}, {"eos_token_id": [fourth, second]}),
            (2, {"eos_token_id": fourth}, {"eos_token_id": second}),
            (4, {"eos_token_id": second}, {"eos_token_id": fourth}),  # the generation config speaks, config.json does not
            (2, {"eos_token_id": second}, {"eos_token_id": [second, fourth]}),
            (2, {}, {"eos_token_id": float(second)}),
            (2, {}, {"eos_token_id": [second, -1, 300, 2**40]}),
            (2, {"eos_token_id": second}, {"eos_token_id": None}),
            (2, {"eos_token_id": second}, {"bos_token_id": 1, "_from_model_config": True}),
            (8, {"eos_token_id": second}, {"eos_token_id": -1}),
            (8, {}, {"eos_token_id": -1}),
            (8, {"eos_token_id": [300, -1]}, None),
            (8, {}, {"max_new_tokens": 3, "do_sample": True, "temperature": 9.0, "forced_eos_token_id": second}),
        ]
        for length, config, generation in cases:
            with self.subTest(config=config, generation=generation):
                self.describe(config, generation)
                self.assertEqual(self.ids(self.model), self.usual[:length])

    def test_the_end_token_is_printed(self):
        self.describe({}, {"eos_token_id": [self.second]})
        done = self.succeed("generate", "--model", self.model, "--prompt-ids", "1,2,3", "--tokens", "8", text=False)
        self.assertEqual(done.stdout, bytes(self.usual[:2]) + b"\n")

    def test_a_file_that_says_nothing_clear(self):
        for content, says in [(b"", "is empty, not JSON"), (b"{", "not valid JSON"), (b"[]", "must hold a JSON object"),
                              (b"null", "must hold a JSON object"), (LFS, "Git LFS pointer"), (b"<html>", "HTML"),
                              (b'{"eos_token_id": "2"}', "eos_token_id"), (b'{"eos_token_id": [2, 1.5]}', "eos_token_id"),
                              (b'{"eos_token_id": true}', "eos_token_id"), (b'{"bos_token_id": {}}', "bos_token_id"),
                              (b'{"pad_token_id": "0"}', "pad_token_id"),
                              (b'{"eos_token_id": 2, "eos_token_id": 3}', "appears twice, with different values")]:
            with self.subTest(content=content):
                self.describe({}, content)
                for command in (["generate", "--prompt-ids", "1"], ["inspect"]):
                    done = self.refuse(1, command[0], "--model", self.model, *command[1:], says=says)
                    self.assertIn("generation_config.json: ", done.stderr)

    def test_what_is_not_there(self):
        (self.model / "generation_config.json").symlink_to("nowhere")
        self.assertEqual(self.ids(self.model), self.usual)

    def test_inspect_shows_them(self):
        self.describe({"eos_token_id": 9, "pad_token_id": 8}, {"eos_token_id": [4, 5], "bos_token_id": 1})
        shown = self.succeed("inspect", "--model", self.model)
        self.assertIn("tokens: begin 1   end 4 5   pad 8\n", shown.stdout)
        said = json.loads(self.succeed("inspect", "--model", self.model, "--json", "-").stdout)
        self.assertEqual([said["bos_token_id"], said["eos_token_id"], said["pad_token_id"]], [1, [4, 5], 8])

    def test_a_result_ends_as_its_model_does(self):
        self.describe({}, {"eos_token_id": list(range(256))})
        out = self.tmp / "out"
        self.succeed("adapt", "--model", self.model, "--train", self.train, "--out", out, "--sparsity", "0.5",
                     "--method", "prune", "--context", "50", *QUICK)
        for directory in (out, out / "compressed"):
            self.assertEqual(len(self.ids(directory)), 1)


class Values(ReadingCase):
    """Models that transformers 5.24 loads: what is not needed, and what is there in other words, changes no result."""

    def test_configurations(self):
        model = self.write(config=small_config(num_hidden_layers=1))
        usual = self.nll(model)
        for change in [
            {"architectures": ["FSDPLlamaForCausalLM"]}, {"architectures": ["LlamaModel"]}, {"architectures": []},
            {"architectures": ["A", "LlamaForCausalLM"]}, {"architectures": None}, {"architectures": "LlamaForCausalLM"},
            {"torch_dtype": "float64"}, {"torch_dtype": "torch.float32"}, {"dtype": "float8_e4m3fn"}, {"torch_dtype": None},
            {"attention_dropout": 1.5}, {"initializer_range": 0.5}, {"pretraining_tp": 2}, {"use_cache": False},
            {"eos_token_id": 300}, {"bos_token_id": 300}, {"pad_token_id": -2}, {"eos_token_id": []},
            {"rope_scaling": {}}, {"rope_scaling": []}, {"rope_scaling": {"type": "default"}},
            {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, {"rope_parameters": {"rope_theta": 10000.0}},
            {"sliding_window": 64}, {"layer_types": ["full_attention"]}, {"hidden_act": "swish"},
            {"sliding_window": 8, "layer_types": ["sliding_attention"]}, {"sliding_window": 8, "use_sliding_window": False}, {"attention_chunk_size": 8},
            {"rope_scaling": {"factor": 2.0}}, {"original_max_position_embeddings": 16}, {"is_causal": True},
            {"quantization_config": None}, {"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, {"logits_scaling": 8.0},
        ]:
            with self.subTest(change):
                (model / "config.json").write_text(json.dumps(small_config(num_hidden_layers=1) | change))
                self.assertEqual(self.nll(model), usual)
        text = json.dumps(small_config(num_hidden_layers=1))
        (model / "config.json").write_text(text[:-1] + ', "hidden_size": 24, "torch_dtype": "float32"}')
        self.assertEqual(self.nll(model), usual)

    def test_which_of_two_rotary_embeddings_counts(self):
        """The one that transformers 5.24 takes: left is what a file may say, right the same in one place."""
        model = self.write()

        def nll(change):
            (model / "config.json").write_text(json.dumps({**small_config(), "rope_theta": None} | change))
            return self.nll(model)
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        first = "original_max_position_embeddings"
        linear = {"type": "linear", "factor": 2.0}
        other = {"rope_type": "default", "rope_theta": 500.0}
        seen = set()
        for said, meant in [
            ({first: 16, "rope_scaling": llama3}, {"rope_scaling": llama3 | {first: 16}}),
            ({first: 16, "rope_scaling": llama3 | {first: 32}}, {"rope_scaling": llama3 | {first: 16}}),
            ({first: 16, "rope_parameters": llama3 | {first: 32, "rope_theta": 500.0}},
             {"rope_theta": 500.0, "rope_scaling": llama3 | {first: 16}}),
            ({"rope_theta": 10.0, "rope_scaling": other}, {"rope_theta": 500.0}),
            ({"rope_theta": 10.0, "rope_parameters": {"rope_theta": 500.0}}, {"rope_theta": 500.0}),
            ({"rope_theta": 10.0, "rope_scaling": linear, "rope_parameters": other}, {"rope_theta": 10.0, "rope_scaling": linear}),
            ({"rope_scaling": linear, "rope_parameters": other}, {"rope_scaling": linear}),
            ({"rope_scaling": {}, "rope_parameters": other}, {"rope_theta": 500.0}),
        ]:
            with self.subTest(said):
                got = nll(said)
                seen.add(got)
                self.assertEqual(got, nll(meant))
        self.assertEqual(len(seen), 5)

    def test_what_would_compute_something_else_is_refused(self):
        model = self.write()
        for change in [{"layer_types": ["full_attention", "linear_attention"]}, {"is_causal": False},
                       {"per_layer_config": {"0": {"intermediate_size": 8}}},
                       {"rope_scaling": {"type": "yarn", "factor": 2.0}}, {"hidden_act": "gelu"},
                       {"transformers_weights": "other.safetensors"}, {"model_type": "mistral"}]:
            with self.subTest(change):
                (model / "config.json").write_text(json.dumps(small_config() | change))
                self.refuse(1, *self.evaluate(model), says=next(iter(change)))

    def index(self, model, change):
        index = json.loads((model / INDEX).read_text())
        change(index["weight_map"])
        (model / INDEX).write_text(json.dumps(index))

    def test_an_index_that_errs_about_what_is_not_needed(self):
        tied = small_config(tie_word_embeddings=True)
        model = self.write(shards=3, config=tied)
        usual = self.nll(model)
        shard = json.loads((model / INDEX).read_text())["weight_map"]["model.norm.weight"]
        self.index(model, lambda weights: weights.update({"lm_head.weight": shard}))  # no shard holds it
        self.assertEqual(self.nll(model), usual)
        self.index(model, lambda weights: weights.pop("model.norm.weight"))  # a shard holds it all the same
        self.assertEqual(self.nll(model), usual)

        def swap(weights):
            left, right = list(weights)[:2]
            weights[left], weights[right] = weights[right], weights[left]
        self.index(model, swap)
        self.assertEqual(self.nll(model), usual)
        text = (model / INDEX).read_text()
        (model / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"lm_head.weight": "{shard}", ', 1))
        self.assertEqual(self.nll(model), usual)

    def test_an_index_that_names_its_shards_in_other_words(self):
        model = self.write(shards=2)
        usual = self.nll(model)

        def other(weights):
            for n, name in enumerate(weights):
                weights[name] = "./" + weights[name] if n % 3 else weights[name]
        self.index(model, other)
        self.assertEqual(self.nll(model), usual)
        out = self.tmp / "out"
        self.succeed("adapt", "--model", model, "--train", self.train, "--out", out, "--sparsity", "0.5", "--method", "prune",
                     "--context", "50", *QUICK)
        self.assertEqual(support.report(out)["run"]["left_out"], [])

    def test_an_index_that_errs_about_what_is_needed(self):
        model = self.write(shards=3, config=small_config(tie_word_embeddings=False))
        shard = json.loads((model / INDEX).read_text())["weight_map"]["lm_head.weight"]
        tensors = support.read_safetensors(model / shard)
        del tensors["lm_head.weight"]
        support.write_safetensors(model / shard, tensors)
        self.refuse(1, *self.evaluate(model), says=f'{INDEX}: tensor "lm_head.weight" is listed in "{shard}", but neither')

    def test_a_tensor_in_two_shards(self):
        model = self.write(shards=2)
        usual = self.nll(model)
        first, second = (model / f"model-{n:05}-of-00002.safetensors" for n in (1, 2))
        held = support.read_safetensors(second)
        name, tensor = next(iter(support.read_safetensors(first).items()))
        support.write_safetensors(second, held | {name: tensor})
        self.assertEqual(self.nll(model), usual)
        support.write_safetensors(second, held | {name: Stored.of(np.zeros(tensor.shape))})
        done = self.refuse(1, *self.evaluate(model), says="with different values")
        self.assertIn(first.name, done.stderr)
        self.assertIn(second.name, done.stderr)

    def test_headers_of_safetensors_files(self):
        """What the reference reader takes."""
        model = self.write()
        usual = self.nll(model)
        header, data = support.read_header(model / "model.safetensors")
        for change in ({"__metadata__": None}, {"__metadata__": {}}, {"more": {"dtype": "F8_E8M0", "shape": [0], "data_offsets": [0, 0]}},
                       {"empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [8, 8]}}):
            with self.subTest(change):
                text = json.dumps(header | change).encode() + b"   \n"
                support.write_raw_safetensors(model / "model.safetensors", text, data)
                self.assertEqual(self.nll(model), usual)


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


class FirstBytes(ReadingCase):
    """A file that is something else is told by name, in one sentence that says what to do."""

    OTHERS = {
        "Git LFS pointer": LFS,
        "LFS pointer": b"version https://hawser.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "git-annex pointer": b"/annex/objects/SHA256E-s12--4d7a214614ab.safetensors\n",
        "symbolic link": b"../../blobs/4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393",
        "HTML page": b"<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>\n",
        "an HTML page": b"\xef\xbb\xbf\r\n <HTML>\n",
        "XML": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
        "text (\"Entry not found\")": b"Entry not found",
        "gzip": gzip.compress(b"{}" * 100, mtime=0),
        "zstd": b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00",
        "xz": b"\xfd7zXZ\x00\x00\x04\xe6\xd6",
        "bzip2": b"BZh91AY&SY\x10\x20",
        "a zip archive": zipped("weights.txt"),
        "PyTorch checkpoint": zipped("archive/data.pkl"),
        ".npz": zipped("arr_0.npy"),
        "tar archive": b"model".ljust(257, b"\0") + b"ustar\x0000" + bytes(100),
        "GGUF": b"GGUF\x03\x00\x00\x00\x10\x00\x00\x00",
        "HDF5": b"\x89HDF\r\n\x1a\n\x00\x00",
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}",
        ".npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
        "never filled": bytes(5000),
        "UTF-16": "{}\n".encode("utf-16"),
    }

    def refuse_all(self, model, path, says):
        for command in (self.evaluate(model), ["inspect", "--model", model], ["generate", "--model", model, "--prompt-ids", "1"]):
            done = self.refuse(1, *command, says=says)
            self.assertIn(f"{path.name}: is ", done.stderr)

    def test_in_place_of_weights(self):
        model = self.write()
        path = model / "model.safetensors"
        json_too = {'JSON ("{"error":"Repository not found"}")': b'{"error":"Repository not found"}'}
        for says, content in (self.OTHERS | json_too).items():
            with self.subTest(says):
                path.write_bytes(content)
                self.refuse_all(model, path, says)
        path.write_bytes(LFS)
        self.refuse(1, "adapt", "--model", model, "--train", self.train, "--out", self.tmp / "out", "--sparsity", "0.5", says="git lfs pull")
        self.assertFalse((self.tmp / "out").exists())

    def test_in_place_of_a_shard_or_its_index(self):
        model = self.write(shards=2)
        for name in (INDEX, "model-00002-of-00002.safetensors"):
            path = model / name
            kept = path.read_bytes()
            for says in ("Git LFS pointer", "HTML page", "gzip", "never filled"):
                with self.subTest(says, file=name):
                    path.write_bytes(self.OTHERS[says])
                    self.refuse_all(model, path, says)
            path.write_bytes(kept)

    def test_in_place_of_json(self):
        model = self.write()
        path = model / "config.json"
        shutil.copy(path, self.tmp / "kept")
        for name in ("config.json", "generation_config.json"):
            path = model / name
            for says, content in self.OTHERS.items():
                with self.subTest(says, file=name):
                    path.write_bytes(content)
                    self.refuse_all(model, path, says)
            path.write_bytes(b"\xef\xbb\xbf" + (self.tmp / "kept").read_bytes())
            self.refuse_all(model, path, "UTF-8 byte order mark")
            path.write_bytes((model / "model.safetensors").read_bytes())
            self.refuse_all(model, path, "a safetensors file, not JSON")
            shutil.copy(self.tmp / "kept", path)

    def test_in_place_of_questions(self):
        model = self.write()
        for says in ("Git LFS pointer", "HTML page", "gzip", "UTF-16"):
            (self.tmp / "questions").write_bytes(self.OTHERS[says])
            self.refuse(1, "eval", "--model", model, "--choices", self.tmp / "questions", says=says)
        (self.tmp / "questions").write_bytes(b'\xef\xbb\xbf{"context": [1], "choices": [[2], [3]], "answer": 0}\n')
        self.succeed("eval", "--model", model, "--choices", self.tmp / "questions")

    def test_in_place_of_a_model(self):
        """What is there instead is said."""
        folder = self.tmp / "folder"
        folder.mkdir()
        (folder / "pytorch_model.bin").write_bytes(zipped("archive/data.pkl") + bytes(5000))
        self.refuse(1, *self.evaluate(folder), says='its largest file is "pytorch_model.bin", a PyTorch checkpoint: convert')
        (folder / "config.json").write_text(json.dumps(small_config()))
        self.refuse(1, *self.evaluate(folder), says='its largest file is "pytorch_model.bin", a PyTorch checkpoint: convert')
        (folder / "model.safetensors").symlink_to("nowhere")
        self.refuse(1, *self.evaluate(folder), says="is a link that leads nowhere")
        gguf = self.tmp / "model.gguf"
        gguf.write_bytes(self.OTHERS["GGUF"])
        self.refuse(1, *self.evaluate(gguf), says="is not a directory but a GGUF model")
        self.refuse(1, *self.evaluate(self.write() / "model.safetensors"),
                    says="is not a directory but a safetensors file; give the directory that holds it")
        cache = self.tmp / "models--a--b"
        os.makedirs(cache / "snapshots" / "0123")
        self.refuse(1, *self.evaluate(cache), says="give one of those in snapshots")
        adapter = self.tmp / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        self.refuse(1, *self.evaluate(adapter), says="a PEFT adapter: merge it into its model")

    def test_cut_off(self):
        model = self.write()
        path = model / "model.safetensors"
        whole = path.read_bytes()
        for size in (200, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            self.refuse(1, *self.evaluate(model), says="cut off")


if __name__ == "__main__":
    support.main()
