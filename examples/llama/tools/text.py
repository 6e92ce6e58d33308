"""Text for models whose tokens are not bytes: a model directory's tokenizer.json between text and losa-llama.

    python text.py generate --tool losa-llama --model MODEL --prompt "The river" --tokens 40 --temperature 0.7
    python text.py encode --model MODEL "The river"             prints 504,4626
    python text.py encode --model MODEL --file book.txt --out book.u16
    python text.py decode --model MODEL 504,4626                prints The river
    python text.py choices --model MODEL questions.jsonl --out ids.jsonl

`generate` hands options that it does not know on to losa-llama. For compressed/ of a result, the tokeniser may lie in
the directory above; for a model without one, name one with --tokenizer. Needs the Python package tokenizers (cmake/setup.sh --with-smollm2).
"""
import argparse
import array
import json
import os
import pathlib
import subprocess
import sys


def load_tokenizer(path):
    """From a file tokenizer.json, or a directory with one."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        sys.exit("text: the Python package tokenizers is missing; cmake/setup.sh --with-smollm2 installs it")
    path = pathlib.Path(path)
    if path.is_dir():
        above = path.resolve().parent / "tokenizer.json"  # what is large is there once, for both forms of a result
        path = path / "tokenizer.json"
        if not path.is_file() and path.resolve().parent.name == "compressed" and above.is_file():
            path = above
    if not path.is_file():
        sys.exit(f"text: there is no {path}; name a tokeniser with --tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as why:  # the package throws nothing narrower
        sys.exit(f"text: {path}: {why}")


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


def unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def no_number(text):
    raise ValueError(f"{text} is no number")


def questions(tokenizer, lines):
    """Lines of JSON with `context`, `choices` and `answer`; text becomes token ids, as `losa-llama eval --choices`
    reads them."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = json.loads(line, object_pairs_hook=unique, parse_constant=no_number)
            choices, answer = question["choices"], question["answer"]
            if not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
                raise ValueError(f"choices must be a list of texts, got {choices!r:.60}")
            if not (type(answer) is int and 0 <= answer < len(choices)):
                raise ValueError(f"answer must be the index of a choice, got {answer!r:.60}")
            context = question["context"]
            question["context"] = encode(tokenizer, context)
            # What a choice adds to its context: on its own it would begin with what SentencePiece puts before any text.
            behind = len(question["context"])
            question["choices"] = [encode(tokenizer, context + choice)[behind:] for choice in choices]
            if not question["context"] or not all(question["choices"]):
                raise ValueError("the context or a choice is empty")
        except (ValueError, TypeError, KeyError, RecursionError) as why:
            sys.exit(f"text: line {number} is no question with a context, choices in text and an answer: "
                     f"{type(why).__name__}: {why}")
        yield json.dumps(question)


def generate(tool, model, tokenizer, prompt, *options):
    """What losa-llama continues the prompt with, as text."""
    ids = tokenizer.encode(prompt).ids  # with what the tokeniser puts before a text
    if not ids:
        sys.exit("text: the prompt is empty")
    command = [str(tool), "generate", "--model", str(model), "--prompt-ids", ",".join(map(str, ids)),
               *map(str, options), "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)  # losa-llama has said why
    # Some decoders drop a space in front, so that a continuation must not be decoded on its own.
    before, after = (tokenizer.decode(part) for part in (ids, ids + json.loads(done.stdout)["ids"]))
    return after[len(before):]


def write_tokens(path, ids, vocabulary):
    """A token file as losa-llama reads it, written aside and renamed."""
    bits = 8 if vocabulary <= 1 << 8 else 16 if vocabulary <= 1 << 16 else 32
    write_aside(path, array.array({8: "B", 16: "H", 32: "I"}[bits], ids).tobytes())


def write_aside(path, content):
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def id_list(text):
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected token ids with commas between them, got {text!r}") from None


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = p.add_subparsers(dest="command", required=True)
    for name, what in (("generate", "continues a prompt"), ("encode", "text to ids"), ("decode", "ids to text"),
                       ("choices", "multiple-choice questions to ids, for losa-llama eval --choices")):
        q = sub.add_parser(name, help=what)
        q.add_argument("--model", type=pathlib.Path, required=True, help="model directory")
        q.add_argument("--tokenizer", type=pathlib.Path, help="tokenizer.json or its directory (default: MODEL)")
        if name == "generate":
            q.add_argument("--tool", default="losa-llama", help="the losa-llama program")
            q.add_argument("--prompt", required=True)
        elif name == "encode":
            q.add_argument("text", nargs="?")
            q.add_argument("--file", type=pathlib.Path, help="UTF-8 text; its line ends stay as they are")
            q.add_argument("--out", type=pathlib.Path, help="write a token file instead of printing")
        elif name == "choices":
            q.add_argument("file", type=pathlib.Path, help="JSONL with context, choices (both text) and answer")
            q.add_argument("--out", type=pathlib.Path, required=True, help="the same with token ids")
        else:
            q.add_argument("ids", type=id_list)
    o, options = p.parse_known_args()
    if options and o.command != "generate":
        p.error(f"unknown: {' '.join(options)}")
    if o.command == "encode" and (o.text is None) == (o.file is None):
        p.error("give either a text or --file")

    tokenizer = load_tokenizer(o.tokenizer or o.model)
    try:
        if o.command == "generate":
            print(o.prompt + generate(o.tool, o.model, tokenizer, o.prompt, *options))
        elif o.command == "decode":
            print(decode(tokenizer, o.ids))
        elif o.command == "choices":
            with o.file.open(encoding="utf-8-sig") as lines:
                write_aside(o.out, "".join(line + "\n" for line in questions(tokenizer, lines)).encode())
        else:
            ids = encode(tokenizer, o.text if o.file is None else o.file.read_bytes().decode("utf-8"))
            if o.out:
                write_tokens(o.out, ids, json.loads((o.model / "config.json").read_text())["vocab_size"])
            else:
                print(",".join(map(str, ids)))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as why:
        sys.exit(f"text: {getattr(o, 'file', None) or o.model}: {type(why).__name__}: {why}")


if __name__ == "__main__":
    main()
