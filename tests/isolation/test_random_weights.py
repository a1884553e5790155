from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel, LlamaConfig, LlamaForCausalLM

from lightning_interp.compat import pl
from lightning_interp.isolation.random_weights import random_weights
from lightning_interp.models import Seq2SeqModule
from tests.identity import same, standing


class Scale(nn.Module):
    """A parameter that nothing draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([7.0]))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(model: nn.Module) -> nn.Module:
    """Any other weights than those at the start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(3.0)
    return model


MODELS = {
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    "seq2seq": lambda: Seq2SeqModule(11, 12, d_model=8, heads=2, feedforward=16),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_others_within_and_the_same_afterwards(name: str) -> None:
    model = trained(MODELS[name]())
    before, streams = state(model), torch.random.get_rng_state()
    with random_weights(model, seed=3):
        within = state(model)
        again_within = {name: tensor for name, tensor in within.items() if tensor.is_floating_point()}
        assert all(bool(tensor.isfinite().all()) for tensor in again_within.values())
        assert all(not torch.equal(within[key], before[key]) for key, _ in model.named_parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert torch.equal(torch.random.get_rng_state(), streams)
    with random_weights(model, seed=3):
        assert all(torch.equal(tensor, within[key]) for key, tensor in state(model).items())
    with random_weights(model, seed=4):
        assert any(not torch.equal(tensor, within[key]) for key, tensor in state(model).items())


def test_a_linear_layer_is_drawn_as_its_class_draws_it() -> None:
    model = trained(nn.Linear(64, 64))
    torch.manual_seed(5)
    expected = nn.Linear(64, 64).weight
    with random_weights(model, seed=5):
        assert torch.equal(model.weight, expected)


def test_a_model_of_transformers_is_made_anew_by_its_class() -> None:
    model = trained(MODELS["llama"]())
    torch.manual_seed(5)
    expected = MODELS["llama"]()
    with random_weights(nn.ModuleDict({"lm": model}), seed=5):
        assert torch.equal(model.lm_head.weight, expected.lm_head.weight)


def test_weights_come_back_after_an_error() -> None:
    model = trained(nn.Linear(2, 2))
    before = model.weight.clone()
    with pytest.raises(RuntimeError, match="inside"), random_weights(model):
        raise RuntimeError("inside")
    assert torch.equal(model.weight, before)


CONFIG = GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)


class Head(GPT2PreTrainedModel):
    """A head of one's own on a model of transformers, with one more argument."""

    def __init__(self, config: GPT2Config, classes: int) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.head = nn.Linear(400, classes)
        self.post_init()


class Nano(nn.Module):
    """After the pattern of transformers, and no more than that."""

    def __init__(self, config: dict[str, int], vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config["width"])
        self.layer = nn.Linear(config["width"], 64)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=5.0)


class Adapted(nn.Module):
    """What peft puts in the place of a layer."""

    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 48, bias=False)})

    def reset_lora_parameters(self, adapter_name: str, init_lora_weights: bool) -> None:
        assert init_lora_weights
        nn.init.kaiming_uniform_(self.lora_A[adapter_name].weight)
        nn.init.zeros_(self.lora_B[adapter_name].weight)


def adapted() -> nn.Module:
    model = GPT2LMHeadModel(CONFIG)
    for block in model.transformer.h:
        block.attn.c_attn = Adapted(block.attn.c_attn)
    return model


class Patches(pl.LightningModule):
    """Parameters of its own: one that it draws, one that is constant, and one from a file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, width)
        self.token = nn.Parameter(torch.randn(width))
        self.gain = nn.Parameter(torch.full((width,), 0.5))
        self.loaded = nn.Parameter(torch.arange(float(width)))


@pytest.mark.parametrize(
    ("make", "spread"),
    [
        (lambda: Head(CONFIG, 50), {"head.weight": 0.02, "transformer.h.0.mlp.c_fc.weight": 0.02}),
        (lambda: Nano({"width": 64}, 100), {"layer.weight": 5.0, "embedding.weight": 1.0}),
        (
            adapted,
            {
                "transformer.h.0.attn.c_attn.base_layer.weight": 0.02,
                "transformer.h.1.attn.c_attn.lora_B.default.weight": 0.0,
                "transformer.h.1.attn.c_attn.lora_A.default.weight": (2 / 16) ** 0.5,
                "transformer.h.0.mlp.c_proj.weight": 0.01,
                "transformer.wte.weight": 0.02,
            },
        ),
    ],
    ids=["head", "nano", "adapters"],
)
def test_a_class_whose_constructor_takes_more_draws_as_it_says(make, spread: dict[str, float]) -> None:
    model = trained(make())
    before = state(model)
    with random_weights(model, seed=2) as shuffled:
        within = dict(model.named_parameters())
        assert shuffled == ()
        for name, expected in spread.items():
            found = within[name]
            assert float(found.square().mean().sqrt()) == pytest.approx(expected, rel=0.25), name
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())


def test_weights_that_were_loaded_are_drawn_all_the_same() -> None:
    model = trained(Head(CONFIG, 50))
    for one in (*model.parameters(), *model.modules()):
        one._is_hf_initialized = True
    with random_weights(model):
        assert float(model.head.weight.mean()) == pytest.approx(0.0, abs=0.01)
    assert all(one._is_hf_initialized for one in (*model.parameters(), *model.modules()))


def told(model: nn.Module, message: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The random weights, which come with a warning, and what of them was shuffled."""
    with pytest.warns(UserWarning, match=message), random_weights(model) as shuffled:
        return state(model), shuffled


def test_saved_hyperparameters_give_what_no_method_draws() -> None:
    model = trained(Patches(40))
    within, shuffled = told(model, r"nothing draws the parameters \['loaded'\] of Patches")
    assert shuffled == ("loaded",)
    assert float(within["token"].mean()) == pytest.approx(0.0, abs=0.5)
    assert bool((within["gain"] == 0.5).all())
    # The same twice, and no constant: it may come from a file, and would be no random weight.
    assert within["loaded"].tolist() != (torch.arange(40.0) + 3).tolist()
    assert within["loaded"].sort().values.tolist() == (torch.arange(40.0) + 3).tolist()


def test_of_what_nothing_draws_the_entries_are_shuffled_and_named_and_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Scale())
    model[1].gain = nn.Parameter(torch.arange(50.0))
    before = state(model)
    within, _ = told(model, r"'1\.gain'.*`baseline=lambda: …`.*`baseline=False`")
    assert within["1.gain"].sort().values.tolist() == list(range(50))
    assert within["1.gain"].tolist() != list(range(50))
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    with random_weights(model, fresh=lambda: {**before, "0.weight": before["0.weight"] + 1}) as shuffled:
        assert shuffled == ()
        assert torch.equal(model[0].weight, before["0.weight"] + 1)


class Rude(nn.Linear):
    """Puts another tensor where its own was, leaves a mark, and then fails."""

    drawn = 0

    def reset_parameters(self) -> None:
        if hasattr(self, "ready"):
            self.drawn += 1
            self.weight = nn.Parameter(torch.full_like(self.weight, 0.25))
            self.bias.data = torch.full_like(self.bias, 0.5).double().float()
            raise KeyError("a foreign error")
        super().reset_parameters()


def test_what_foreign_code_replaces_is_put_back() -> None:
    model = Rude(3, 3)
    model.ready = True
    weight, bias, storage = model.weight, model.bias, model.bias.data_ptr()
    before = state(model)
    with random_weights(model):
        assert model.weight is weight  # an optimizer knows this one
        assert model.weight.tolist() == [[0.25] * 3] * 3
        assert model.bias.tolist() == [0.5] * 3
    assert model.weight is weight
    assert model.bias is bias
    assert model.bias.data_ptr() == storage
    assert model.drawn == 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())


def test_quantised_weights_have_no_baseline() -> None:
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    before = state(model)
    message = r"Linear has no baseline.*'codes'\] are torch.uint8.*`baseline=False`"
    with pytest.raises(ValueError, match=message), random_weights(model):
        pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())


class Codes(nn.Module):
    """Quantised as GPTQ has it: buffers, of which one holds the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.randint(-9, 9, (4, 4), dtype=torch.int32))
        self.register_buffer("scales", torch.ones(4))


class Masked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.uint8))


def test_quantised_weights_that_are_no_parameters_have_no_baseline() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})
    for model in (nn.Sequential(nn.Linear(4, 4), Codes()), packed):
        before = state(nn.Sequential(*model)[:1]) if model is not packed else {}
        message = r"the modules \['.*'\] hold quantised weights.*`baseline=False`"
        with pytest.raises(ValueError, match=message), random_weights(model):
            pass
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in before.items())
    for model in (Masked(), nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64))):
        with random_weights(model) as shuffled:
            assert shuffled == ()


def test_an_expanded_parameter_is_refused_before_anything_is_written() -> None:
    model = nn.Linear(3, 3)
    model.shared = nn.Parameter(torch.randn(1, 3).expand(3, 3))
    before = state(model)
    with pytest.raises(ValueError, match=r"entries of parameter 'shared' are one and the same"), random_weights(model):
        pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())


class Finetuned(pl.LightningModule):
    """A constructor that works on the network that it is given, which hyperparameters hold."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.save_hyperparameters()
        net.requires_grad_(False)
        net.register_forward_hook(lambda module, given, found: found + 0)
        net.head = nn.Linear(3, 3)
        net.temperature = nn.Parameter(torch.rand(3))
        self.net = net
        self.token = nn.Parameter(torch.randn(30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.head(self.net(x)) + self.token[:3]


class Body(nn.Linear):
    pass


def test_a_constructor_that_works_on_parts_of_the_model_leaves_them_as_they_were() -> None:
    model = Finetuned(Body(3, 3))
    model.net.requires_grad_(True)  # later in a fine-tuning
    before, x = state(model), torch.randn(2, 3)
    output, modules = model(x), list(model.modules())
    hooks, grads = len(model.net._forward_hooks), [one.requires_grad for one in model.parameters()]
    parameters = list(model.parameters())
    with random_weights(model):
        assert list(model.modules()) == modules
        assert float((model.token - before["token"]).abs().max()) > 0.1
        assert bool((model.net.head.weight != before["net.head.weight"]).all())
    assert list(model.modules()) == modules
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert (len(model.net._forward_hooks), [one.requires_grad for one in model.parameters()]) == (hooks, grads)
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert torch.equal(model(x), output)


def test_a_constructor_that_ends_the_program_only_means_that_another_way_is_tried() -> None:
    class Script(pl.LightningModule):
        alive = True

        def __init__(self, width: int = 30) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.token = nn.Parameter(torch.randn(width))
            if not self.alive:
                raise SystemExit(2)

    model = Script()
    Script.alive = False
    assert told(model, "'token'")[1] == ("token",)


def test_a_scripted_part_is_drawn_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))))
    before = state(model)
    within, shuffled = told(model, "in another order")
    assert "1.0.weight" in shuffled
    assert not torch.equal(within["1.0.weight"], before["1.0.weight"])
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())


def test_a_fresh_model_of_other_shapes_is_refused() -> None:
    model = nn.Linear(2, 2)
    wrong = {
        r"'weight' of shape \(2, 2\), but has one of shape \(2, 3\)": lambda: nn.Linear(3, 2),
        r"'bias' of shape \(2,\), but has none": lambda: {"weight": model.weight},
    }
    for message, fresh in wrong.items():
        with pytest.raises(ValueError, match=message), random_weights(model, fresh=fresh):
            pass


# ------------------------------------------------- no trace


class Marks(nn.Linear):
    """A module whose own way to draw its weights does one more thing, besides drawing them."""

    def __init__(self, offence: str) -> None:
        super().__init__(3, 3)
        self.offence = ""
        self.counter = 0
        self.inner = nn.Linear(3, 3)
        self.several = nn.ParameterList([nn.Parameter(torch.ones(3))])
        self.register_buffer("mask", torch.ones(3, 3))
        self.offence = offence

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if getattr(self, "offence", ""):
            getattr(self, f"_{self.offence}")()

    def _assigns_a_parameter(self) -> None:
        self.weight = nn.Parameter(torch.full((3, 3), 0.25))

    def _assigns_one_of_another_shape(self) -> None:
        self.weight = nn.Parameter(torch.rand(5, 3))

    def _assigns_data(self) -> None:
        self.weight.data = torch.full((3, 3), 0.25)

    def _assigns_data_of_another_shape(self) -> None:
        self.bias.data = torch.rand(7)

    def _counts(self) -> None:
        self.counter += 1

    def _registers_a_buffer(self) -> None:
        self.register_buffer("late", torch.ones(2), persistent=False)
        self.register_buffer("mask", torch.zeros(2, 2))

    def _registers_modules(self) -> None:
        self.late = nn.Linear(1, 1)
        self.gain = nn.Parameter(torch.full((2,), torch.nan))

    def _replaces_a_module(self) -> None:
        self.inner = nn.Linear(3, 3)

    def _replaces_a_list(self) -> None:
        self.several = nn.ParameterList([nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))])

    def _removes_parameters(self) -> None:
        self.bias = None
        del self.several

    def _hooks(self) -> None:
        self.register_forward_hook(lambda module, given, found: found * 0)
        self.weight.register_hook(lambda grad: grad * 0)
        self.bias.register_hook(lambda grad: grad * 0)
        self.weight.register_post_accumulate_grad_hook(lambda parameter: parameter.data.zero_())

    def _freezes(self) -> None:
        self.requires_grad_(False)
        self.weight.note = "frozen"

    def _drops_gradients(self) -> None:
        self.zero_grad(set_to_none=False)
        self.weight.grad = torch.zeros(3, 3)

    def _parametrizes(self) -> None:
        nn.utils.parametrizations.weight_norm(self)

    def _ties(self) -> None:
        self.inner.weight = self.weight

    def _starts_anew(self) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = nn.Parameter(torch.rand(3, 3)), nn.Parameter(torch.rand(3))


OFFENCES = [name[1:] for name in vars(Marks) if name.startswith("_") and not name.startswith("__")]


def everything(model: nn.Module) -> list:
    """Of each parameter its gradient, hooks and attributes, beside what stands in the model."""
    rest = []
    for one in model.parameters():
        hooks = [
            list((getattr(one, name) or {}).items()) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
        ]
        rest.append([one.data_ptr(), one.requires_grad, id(one.grad), hooks, dict(vars(one))])
    return rest


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("offence", OFFENCES)
def test_drawing_leaves_no_trace(offence: str, mode) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"marks": Marks(offence), "tied": nn.Linear(3, 3), "normed": nn.Linear(3, 3)})
    marks = model["marks"]
    model["tied"].weight = marks.weight
    nn.utils.parametrizations.weight_norm(model["normed"])
    marks.weight.register_hook(lambda grad: grad + 1)
    marks.forward(torch.ones(1, 3)).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    stands, rest, values = standing(model), everything(model), state(model)
    grad = marks.weight.grad.clone()
    with mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with random_weights(model, seed=1):
            assert all(bool(one.isfinite().all()) for one in model.state_dict().values())
            assert not torch.equal(marks.weight, values["marks.weight"])
            assert not torch.equal(marks.inner.weight, values["marks.inner.weight"])
            # What is done within leaves none either.
            getattr(marks, f"_{offence}")()
    assert same(stands, standing(model))
    assert rest == everything(model)
    assert all(torch.equal(value, values[name]) for name, value in state(model).items())
    assert torch.equal(marks.weight.grad, grad)
    optimizer.step()
    torch.testing.assert_close(marks.weight, values["marks.weight"] - 0.1 * grad)


def test_a_weight_that_is_assigned_is_read_under_all_its_names() -> None:
    model = nn.ModuleDict({"marks": Marks("assigns_a_parameter"), "tied": nn.Module()})
    model["tied"].weight = model["marks"].weight
    model["tied"].inner = model["marks"].inner.weight
    with random_weights(model):
        assert model["tied"].weight is model["marks"].weight
        assert model["tied"].weight.tolist() == [[0.25] * 3] * 3


def test_a_function_that_works_on_the_model_leaves_no_trace() -> None:
    model = Marks("counts")
    stands, values = standing(model), state(model)

    def fresh() -> dict[str, torch.Tensor]:
        model.weight = nn.Parameter(torch.rand(3, 3))
        return {name: torch.full_like(value, 0.5) for name, value in values.items()}

    with random_weights(model, fresh=fresh):
        assert all(bool((one == 0.5).all()) for one in model.parameters())
        assert bool((model.mask == 0.5).all())
    assert same(stands, standing(model))
    assert all(torch.equal(value, values[name]) for name, value in state(model).items())


def test_a_model_in_another_precision_within_has_its_own_afterwards() -> None:
    model = nn.Linear(3, 3)
    pointer, values = model.weight.data_ptr(), state(model)
    with random_weights(model):
        model.half()
    assert model.weight.data_ptr() == pointer
    assert all(torch.equal(value, values[name]) for name, value in state(model).items())
