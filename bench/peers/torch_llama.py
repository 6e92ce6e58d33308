"""The same jobs in PyTorch, to measure losa-llama against: perplexity, one-shot pruning, training under a mask.

    python torch_llama.py perplexity --model MODEL --tokens test.u16
    python torch_llama.py prune --model MODEL --calibration valid.u16 --method wanda --sparsity 0.5 --out build/w50
    python torch_llama.py step --model build/w50 --train valid.u16
    python torch_llama.py adapt --model build/w50 --train valid.u16 --lr 5e-3 --train-tokens 51200 --tokens test.u16

Everything is f32 on the CPU. A pruned model's mask is where its weights are not zero. Each command prints one line of
JSON. Needs PyTorch and safetensors (cmake/setup.sh --with-torch).
"""
import argparse
import json
import math
import pathlib
import resource
import shutil
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

COLUMNS = 128  # of a block of SparseGPT
DAMPING = 0.01


# ---- the model: modules named as Hugging Face names them, so that a checkpoint is a state dict -------------------


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.size = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        self.groups = c["num_attention_heads"] // c["num_key_value_heads"]
        query, key = self.size * c["num_attention_heads"], self.size * c["num_key_value_heads"]
        self.q_proj = nn.Linear(c["hidden_size"], query, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], key, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], key, bias=False)
        self.o_proj = nn.Linear(query, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin):
        q, k, v = (layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
                   for layer in (self.q_proj, self.k_proj, self.v_proj))

        def rotated(t):
            left, right = t[..., :self.size // 2], t[..., self.size // 2:]
            return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

        k, v = (t.repeat_interleave(self.groups, dim=1) for t in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), FeedForward(c)
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))

    def linears(self):
        """(parent, name, layer) of the seven weights that are pruned."""
        return [(parent, name, layer) for parent in (self.self_attn, self.mlp)
                for name, layer in parent.named_children()]


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c.get("tie_word_embeddings", False):
            self.lm_head.weight = self.embed_tokens.weight

    @staticmethod
    def load(directory):
        config = json.loads((directory / "config.json").read_text())
        stored = {}
        for file in sorted(directory.glob("*.safetensors")):
            stored |= load_file(file)
        state = {name.removeprefix("model."): tensor.float() for name, tensor in stored.items()}
        if config.get("tie_word_embeddings", False):
            state["lm_head.weight"] = state["embed_tokens.weight"]
        with torch.device("meta"):
            model = Llama(config)
        model.load_state_dict(state, assign=True)
        if config.get("tie_word_embeddings", False):
            model.lm_head.weight = model.embed_tokens.weight
        return model.requires_grad_(False)

    def save(self, directory, source):
        directory.mkdir(parents=True, exist_ok=True)
        state = {("" if name.startswith("lm_head") else "model.") + name: tensor.contiguous()
                 for name, tensor in self.state_dict().items()}
        if self.config.get("tie_word_embeddings", False):
            del state["lm_head.weight"]
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(source / "config.json", directory / "config.json")

    def turns(self, length):
        """Cosines and sines of the rotary embedding, (length, head size / 2)."""
        size = self.layers[0].self_attn.size
        frequency = self.config["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
        return angle.cos().float(), angle.sin().float()

    def forward(self, tokens):
        x, (cos, sin) = self.embed_tokens(tokens), self.turns(tokens.shape[1])
        for block in self.layers:
            x = block(x, cos, sin)
        return self.lm_head(self.norm(x))

    def loss(self, tokens):
        """Mean negative log likelihood of all tokens of each row but the first."""
        logits = self(tokens)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def read_tokens(path):
    return torch.from_numpy(np.fromfile(path, "<u2").astype(np.int64))


def first_rows(tokens, sequences, context):
    return tokens[:sequences * context].view(sequences, context)


def spread_rows(tokens, sequences, context):
    """Row i starts at token i·⌊tokens/sequences⌋."""
    return torch.stack([tokens[i * (len(tokens) // sequences):][:context] for i in range(sequences)])


@torch.no_grad()
def mean_loss(model, rows, batch=4):
    return sum(model.loss(part).item() * len(part) for part in rows.split(batch)) / len(rows)


# ---- masks ------------------------------------------------------------------------------------------------------


def lowest(score, count):
    """True at the `count` lowest scores of each row; of equal ones the first."""
    order = score.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


def removed_per_row(score, o):
    if o.pattern:
        keep, group = o.pattern
        return lowest(score.reshape(-1, group), group - keep).view_as(score)
    return lowest(score, int(score.shape[1] * o.sparsity))


def sparsegpt(weight, products, o):
    """Frantar and Alistarh's solver: columns left to right, each error spread over the columns that follow."""
    weight, hessian = weight.clone(), products.double()
    diagonal = hessian.diagonal()
    weight[:, diagonal == 0] = 0
    diagonal[diagonal == 0] = 1
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    pivots = factor.diagonal()
    for begin in range(0, weight.shape[1], COLUMNS):
        inside = slice(begin, min(begin + COLUMNS, weight.shape[1]))
        part, upper, pivot = weight[:, inside], factor[inside, inside], pivots[inside]  # part is a view
        errors = torch.zeros_like(part)
        if not o.pattern:
            score = (part / pivot).square()
            gone = lowest(score.view(1, -1), int(score.numel() * o.sparsity)).view_as(score)
        else:
            gone = torch.zeros_like(part, dtype=torch.bool)
        for j in range(part.shape[1]):
            if o.pattern and j % o.pattern[1] == 0:
                group = slice(j, j + o.pattern[1])
                gone[:, group] = removed_per_row((part[:, group] / pivot[group]).square(), o)
            errors[:, j] = part[:, j] * gone[:, j] / pivot[j]
            part[:, j:].addr_(errors[:, j], upper[j, j:], alpha=-1)
        part[gone] = 0
        weight[:, inside.stop:] -= errors @ factor[inside, inside.stop:]
    return weight


def prune_linear(layer, statistic, o):
    weight = layer.weight
    if o.method == "sparsegpt":
        layer.weight.copy_(sparsegpt(weight, statistic, o))
        return
    score = weight.abs() if o.method == "magnitude" else weight.abs() * statistic.sqrt()
    weight.masked_fill_(removed_per_row(score, o), 0)


@torch.no_grad()
def prune_model(model, rows, o, batch=4):
    """Block by block; a block sees what the pruned blocks before it put out."""
    cos, sin = model.turns(rows.shape[1])
    generator = torch.Generator().manual_seed(o.seed)
    hidden = [model.embed_tokens(part) for part in rows.split(batch)] if o.method != "magnitude" else []
    for block in model.layers:
        statistics, hooks = {}, []
        # q, k and v share their input, gate and up theirs: one sum serves them all.
        share = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}

        def watch(name):
            def add(_, inputs):
                x = inputs[0].flatten(0, 1)
                term = x.T @ x if o.method == "sparsegpt" else (x.double() if o.double_norms else x).square().sum(0)
                statistics[name] = statistics[name] + term if name in statistics else term
            return add

        for _, name, layer in block.linears():
            if name not in share:
                hooks.append(layer.register_forward_pre_hook(watch(name)))
        for x in hidden:
            block(x, cos, sin)
        for hook in hooks:
            hook.remove()
        for _, name, layer in block.linears():
            prune_linear(layer, statistics.get(share.get(name, name)), o)
        hidden = [block(x, cos, sin) for x in hidden]
        if o.noise:
            hidden = [x * (1 + o.noise * torch.randn(x.shape, generator=generator)) for x in hidden]


def zeros(model):
    weights = [layer.weight for block in model.layers for _, _, layer in block.linears()]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


# ---- training under the mask ------------------------------------------------------------------------------------


class MaskedLora(nn.Module):
    """y = (M ⊙ (W + s·B·A)) x, with A and B trained; `masked` false leaves the mask to the merge."""

    def __init__(self, layer, o, generator):
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.weight = layer.weight
        self.mask = torch.ones_like(layer.weight) if o.keep_all else (layer.weight != 0).float()
        self.scale, self.masked = o.alpha / o.rank, o.mode == "masked"
        bound = 1 / math.sqrt(inputs)
        self.a = nn.Parameter((2 * torch.rand(o.rank, inputs, generator=generator) - 1) * bound)
        self.b = nn.Parameter(torch.zeros(outputs, o.rank))

    def product(self):
        return torch.addmm(self.weight, self.b, self.a, alpha=self.scale)

    def forward(self, x):
        return F.linear(x, self.product() * self.mask if self.masked else self.product())

    @torch.no_grad()
    def merged(self):
        layer = nn.Linear(*self.weight.shape[::-1], bias=False, device="meta")
        layer.weight = nn.Parameter(self.product() * self.mask, requires_grad=False)
        return layer


def add_adapters(model, o):
    generator = torch.Generator().manual_seed(o.seed)
    for block in model.layers:
        for parent, name, layer in block.linears():
            setattr(parent, name, MaskedLora(layer, o, generator))
    return [p for p in model.parameters() if p.requires_grad]


def merge(model):
    for block in model.layers:
        for parent, name, layer in block.linears():
            setattr(parent, name, layer.merged())


def train_step(model, optimiser, parameters, rows):
    loss = model.loss(rows)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.item()


def peak_gigabytes():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


# ---- commands ---------------------------------------------------------------------------------------------------


def test_perplexity(model, o):
    return round(math.exp(mean_loss(model, first_rows(read_tokens(o.tokens), o.test_sequences, o.test_context))), 4)


def perplexity(o):
    began = time.perf_counter()
    return {"perplexity": test_perplexity(Llama.load(o.model), o), "seconds": round(time.perf_counter() - began, 2)}


def prune(o):
    model = Llama.load(o.model)
    rows = spread_rows(read_tokens(o.calibration), o.sequences, o.context)
    wall, cpu = time.perf_counter(), time.process_time()
    prune_model(model, rows, o)
    told = {"seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
            "sparsity": round(zeros(model), 6), "peak_gigabytes": peak_gigabytes()}
    if o.out:
        model.save(o.out, o.model)
    return told | ({"perplexity": test_perplexity(model, o)} if o.tokens else {})


def step(o):
    model = Llama.load(o.model)
    parameters = add_adapters(model, o)
    optimiser = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0)
    rows = first_rows(read_tokens(o.train), o.batch, o.context)
    seconds = []
    for _ in range(o.steps + 1):
        began = time.perf_counter()
        train_step(model, optimiser, parameters, rows)
        seconds.append(time.perf_counter() - began)
    seconds = sorted(seconds[1:])  # the first one sets things up
    return {"tokens_per_second": round(rows.numel() / seconds[len(seconds) // 2], 1),
            "best_tokens_per_second": round(rows.numel() / seconds[0], 1), "peak_gigabytes": peak_gigabytes()}


def adapt(o):
    model = Llama.load(o.model)
    parameters = add_adapters(model, o)
    tokens = read_tokens(o.train)
    train = tokens[:len(tokens) - int(len(tokens) * o.hold_out)]
    optimiser = torch.optim.AdamW(parameters, lr=o.lr, weight_decay=0)
    steps = o.train_tokens // (o.batch * o.context)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: (i + 1) / warm if i < warm else (steps - i) / (steps - warm))
    generator = torch.Generator().manual_seed(o.seed + 1)
    began = time.perf_counter()
    for _ in range(steps):
        starts = torch.randint(len(train) - o.context + 1, (o.batch,), generator=generator)
        train_step(model, optimiser, parameters, torch.stack([train[s:s + o.context] for s in starts]))
        schedule.step()
    seconds = time.perf_counter() - began
    merge(model)
    told = {"trained_tokens": steps * o.batch * o.context, "trainable_parameters": sum(p.numel() for p in parameters),
            "sparsity": round(zeros(model), 6), "tokens_per_second": round(steps * o.batch * o.context / seconds, 1),
            "peak_gigabytes": peak_gigabytes()}
    if o.hold_out:
        held = spread_rows(tokens[len(train):], 16, o.context)
        told["held_out_perplexity"] = round(math.exp(mean_loss(model, held)), 4)
    if o.tokens:
        told["perplexity"] = test_perplexity(model, o)
    if o.out:
        model.save(o.out, o.model)
    return told


def pattern(text):
    keep, group = map(int, text.split(":"))
    return keep, group


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = p.add_subparsers(dest="command", required=True)

    def command(run, what):
        q = sub.add_parser(run.__name__, help=what)
        q.set_defaults(run=run)
        q.add_argument("--model", type=pathlib.Path, required=True)
        q.add_argument("--threads", type=int, default=torch.get_num_threads())
        if run is not step:
            q.add_argument("--tokens", type=pathlib.Path, required=run is perplexity, help="16-bit tokens to test on")
            q.add_argument("--test-sequences", type=int, default=32)
            q.add_argument("--test-context", type=int, default=512)
        return q

    command(perplexity, "of the first sequences of a token file")
    q = command(prune, "one-shot pruning, timed")
    q.add_argument("--calibration", type=pathlib.Path, required=True)
    q.add_argument("--method", choices=("magnitude", "wanda", "sparsegpt"), default="wanda")
    q.add_argument("--sparsity", type=float, default=0.5)
    q.add_argument("--pattern", type=pattern, help="N:M, in place of --sparsity")
    q.add_argument("--sequences", type=int, default=32)
    q.add_argument("--context", type=int, default=256)
    q.add_argument("--double-norms", action="store_true", help="Wanda's sums of squares in double")
    q.add_argument("--noise", type=float, default=0,
                   help="relative noise on what a block puts out, to see what hangs on rounding (float: 1e-7 to 1e-6)")
    q.add_argument("--seed", type=int, default=0, help="of the noise")
    q.add_argument("--out", type=pathlib.Path)
    trained = [command(step, "training steps, timed"), command(adapt, "LoRA under the mask")]
    for q in trained:
        q.add_argument("--train", type=pathlib.Path, required=True)
        q.add_argument("--mode", choices=("masked", "unmasked"), default="masked")
        q.add_argument("--keep-all", action="store_true", help="no mask (the dense control)")
        q.add_argument("--rank", type=int, default=8)
        q.add_argument("--alpha", type=float, default=16)
        q.add_argument("--batch", type=int, default=2)
        q.add_argument("--context", type=int, default=256)
        q.add_argument("--seed", type=int, default=0)
    trained[0].add_argument("--steps", type=int, default=5)
    trained[1].add_argument("--train-tokens", type=int, default=51200)
    trained[1].add_argument("--lr", type=float, default=5e-3)
    trained[1].add_argument("--hold-out", type=float, default=0.1)
    trained[1].add_argument("--out", type=pathlib.Path)
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    told = {"command": o.command, "threads": o.threads, "torch": torch.__version__} | o.run(o)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
