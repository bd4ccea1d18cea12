"""The critics: where they start, what they learn, what they leave alone, and what they draw."""
import pytest
import torch
from laws import law_guidance_one_is_none, law_prior_untouched, law_restored, law_weight, law_weights_untouched
from safetensors.torch import load_file, save_file
from zoo import inputs, pixels, points, prior, tiny

from dreamlab.cameras import orbit
from dreamlab.learner import Learner
from dreamlab.noise import Schedule, randn, seeded
from dreamlab.priors.base import Card
from dreamlab.priors.critic import EmbeddingCritic, ExactCritic, LoRACritic, comparable
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.rules import APFO, ASD, LODS, VSD

ANY = torch.tensor([-1])
unets = pytest.mark.parametrize("where", ["eps", "v"])


def held_out(critic, x, cond, draws: int = 4, camera=None) -> float:
    """The critic's error on renders x, at noise that it was not fitted with."""
    generator, total = seeded(99), 0.0
    for _ in range(draws):
        t, eps = torch.randint(100, 900, (len(x),), generator=generator), randn(tuple(x.shape), generator)
        total += float((critic.eps(critic.prior.add_noise(x, eps, t), t, cond, camera) - eps).square().mean()) / draws
    return total


def fit(critic, x, cond, steps: int, camera=None) -> list[float]:
    return [float(critic.fit(x, *critic.draw(x), cond, camera)) for _ in range(steps)]


def moved(critic, x_t, t, cond, camera=None) -> float:
    """How far from where it started the critic is."""
    return float((critic.eps(x_t, t, cond, camera) - critic.base.eps(x_t, t, cond)[0]).abs().max())


def lora(where: str, beside: str | None = None, **settings) -> LoRACritic:
    """On the UNet of the prior itself, or of the one ``beside`` it."""
    return LoRACritic(prior(where), base=beside and prior(beside), **settings)


# LoRA.


@pytest.mark.parametrize("where, beside", [("eps", None), ("v", None), ("toybox", None), ("eps", "another v")])
@pytest.mark.parametrize("camera", [False, True])
def test_lora_starts_as_its_base_and_shares_its_weights(where, beside, camera):
    critic = lora(where, beside, camera=camera)
    here = critic.base
    assert critic.prior is prior(where) and here is prior(beside or where)
    x, t, eps, prompt = inputs(here, n=2)
    assert moved(critic, here.add_noise(x, eps, t), t, prompt.positive, orbit([0.0, 90.0]) if camera else None) < 1e-5
    frozen = {name.replace("base_layer.", ""): p for name, p in critic.unet.named_parameters() if not p.requires_grad}
    theirs = dict(here.unet.named_parameters())
    assert frozen.keys() == theirs.keys()
    assert all(p.data_ptr() == theirs[name].data_ptr() for name, p in frozen.items())
    learnt = sum(p.numel() for p in critic.learner.parameters.values())
    assert 0 < learnt < 0.5 * sum(p.numel() for p in theirs.values())
    assert all("lora_" in name or "class_embedding" in name for name in critic.learner.parameters)


@unets
def test_lora_learns_the_renders_and_leaves_the_prior_alone(where):
    here = prior(where)
    before = {name: p.clone() for name, p in here.unet.state_dict().items()}
    x, _, _, prompt = inputs(here, n=4)
    critic = LoRACritic(here, lr=2e-2)
    start = held_out(critic, 0.3 * x, prompt.positive)
    losses = fit(critic, 0.3 * x, prompt.positive, 30)
    end = held_out(critic, 0.3 * x, prompt.positive)
    print(f"\nLoRA on {where}: error on the renders at new noise {start:.3f} to {end:.3f} in 30 steps")
    assert end < 0.9 * start and len(losses) == 30 and critic.fits == 30
    after = here.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], v) for k, v in before.items())
    assert all(p.grad is None and not p.requires_grad for p in here.unet.parameters())


def test_the_loss_is_the_mean_square_in_what_the_unet_predicts():
    """Noise, or velocity: from one x_t the velocity's error is the noise's over alpha_t."""
    velocity = lambda here, x, eps, t: here.schedule.v(x, eps, t)  # noqa: E731
    noise = lambda here, x, eps, t: eps  # noqa: E731
    for where, beside, of in (("eps", None, noise), ("v", None, velocity), ("eps", "another v", velocity)):
        here, critic = prior(beside or where), lora(where, beside)
        x, t, eps, prompt = inputs(critic.prior, n=3)
        x_t = here.add_noise(x, eps, t)
        with torch.no_grad():
            out = here.unet(x_t, t, encoder_hidden_states=prompt.positive.expand(3, -1, -1)).sample
        expected = (out - of(here, x, eps, t)).square().mean()
        torch.testing.assert_close(critic.fit(x, t, eps, prompt.positive), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("where, beside", [("eps", None), ("v", None), ("eps", "another v")])
def test_the_pull_has_the_gradient_of_both_halves(where, beside):
    """||eps_phi - eps||² + gamma ||eps_phi - eps_y||² and what ``fit`` descends: the same direction, 1 + gamma apart.

    eps_y is the prior's, whatever network the critic is on.
    """
    here, gamma = prior(where), -0.75
    x, t, eps, prompt = inputs(here, n=2)
    critic = lora(where, beside, lr=1e-2)
    fit(critic, x, prompt.positive, 3)  # off the start, where eps_phi = eps_y
    x_t = here.add_noise(x, eps, t)
    eps_y, = here.eps(x_t, t, prompt.positive)
    scale = here.schedule.alpha(t, x) if critic.base.prediction == "v_prediction" else 1.0
    predicted = critic._eps(x_t, t, prompt.positive, None)
    loss = ((predicted - eps) / scale).square().mean() + gamma * ((predicted - eps_y) / scale).square().mean()
    published = torch.autograd.grad(loss, list(critic.learner.parameters.values()))
    critic.fit(x, t, eps, prompt.positive, pull=gamma)
    for p, g in zip(critic.learner.parameters.values(), published, strict=True):
        torch.testing.assert_close((1 + gamma) * p.grad, g, atol=1e-4, rtol=1e-3)


def test_the_camera_counts_after_a_few_fits():
    here = prior("eps")
    x, t, eps, prompt = inputs(here, n=2)
    critic, x_t = LoRACritic(here, lr=1e-2, camera=True), here.add_noise(x, eps, t)
    front, side = orbit([0.0, 0.0]), orbit([90.0, 90.0])

    def difference():
        return float((critic.eps(x_t, t, prompt.positive, front) - critic.eps(x_t, t, prompt.positive, side)).abs().max())

    assert difference() == 0
    fit(critic, x, prompt.positive, 4, front)
    assert difference() > 1e-4
    for call in (lambda: critic.eps(x_t, t, prompt.positive), lambda: critic.fit(x, t, eps, prompt.positive)):
        with pytest.raises(ValueError, match="embeds cameras and got none: pass camera=, or build it with camera=False"):
            call()
    plain = LoRACritic(here)
    assert torch.equal(plain.eps(x_t, t, prompt.positive, front), plain.eps(x_t, t, prompt.positive))


def test_lora_wants_a_unet():
    with pytest.raises(ValueError, match=r"GaussianMixturePrior has no UNet to adapt: use ExactCritic\(prior\)"):
        LoRACritic(points())


def test_two_critics_of_one_prior_do_not_meet():
    here = prior("eps")
    x, t, eps, prompt = inputs(here, n=2)
    first, second = LoRACritic(here, lr=1e-2), LoRACritic(here, lr=1e-2)
    fit(first, x, prompt.positive, 3)
    x_t = here.add_noise(x, eps, t)
    assert moved(first, x_t, t, prompt.positive) > 1e-3 and moved(second, x_t, t, prompt.positive) < 1e-5


# On another network than the prior's: a v-prediction UNet beside an eps-prediction prior.


@pytest.mark.parametrize("rule", [VSD, APFO, ASD])
def test_the_laws_hold_with_a_critic_on_another_network(rule, tmp_path):
    """Prior and base stay as they are, bit for bit, and no gradient reaches either."""
    def make(**settings):
        return rule(lora("eps", "another v", lr=1e-2), **settings)

    here = prior("eps")
    with law_prior_untouched(here), law_weights_untouched(prior("another v").unet):
        law_restored(make(), make(), here, tmp_path)
    law_weight(make, here)
    law_guidance_one_is_none(make, here)
    args = inputs(here)
    assert not torch.allclose(make()(here, *args).value, rule(lora("eps"))(here, *args).value, atol=1e-3)


def test_a_critic_on_another_network_learns_the_renders():
    x, _, _, prompt = inputs(prior("eps"), n=4)
    critic = lora("eps", "another v", lr=2e-2)
    start = held_out(critic, 0.3 * x, prompt.positive)
    fit(critic, 0.3 * x, prompt.positive, 30)
    end = held_out(critic, 0.3 * x, prompt.positive)
    print(f"\nLoRA on a velocity beside eps: error on the renders at new noise {start:.3f} to {end:.3f} in 30 steps")
    assert end < 0.9 * start


def rescheduled(schedule: Schedule):
    other = tiny("v_prediction")
    other.schedule = schedule
    return other


@pytest.mark.parametrize("base, message", [
    (lambda: prior("toybox"), r"its samples have shape \(4, 8, 8\) and not \(8, 16, 16\): build it there, or take two "
                                r"that agree"),
    (lambda: rescheduled(Schedule.scaled_linear(500)), "its noise schedule has 1000 timesteps and not 500"),
    (lambda: rescheduled(Schedule.scaled_linear(beta_end=0.02)), "their noise schedules are up to 0.1.* apart")])
def test_a_network_over_other_samples_or_noise_is_refused(base, message):
    """When the critic is made, and where it is compared with a prior."""
    other = base()
    with pytest.raises(ValueError, match=message):
        LoRACritic(prior("eps"), base=other)
    with pytest.raises(ValueError, match=message):
        comparable(LoRACritic(prior("eps")), other)
    with pytest.raises(ValueError, match=message):
        VSD(LoRACritic(prior("eps")))(other, *inputs(other))


# The embedding.


@pytest.mark.parametrize("where", ["eps", "v", "pixels"])
def test_the_embedding_is_all_that_is_learnt(where):
    here = prior(where)
    x, t, eps, prompt = inputs(here, n=4)
    critic = EmbeddingCritic(here, lr=1e-2)
    x_t = here.add_noise(x, eps, t)
    torch.testing.assert_close(critic.eps(x_t, t, prompt.positive), here.eps(x_t, t, here.null)[0], atol=1e-5, rtol=1e-4)
    assert list(critic.learner.parameters) == ["0"] and critic.embedding[0].shape == here.null.shape
    null = here.null.clone()
    start = held_out(critic, 0.3 * x, prompt.positive)
    fit(critic, 0.3 * x, prompt.positive, 20)
    end = held_out(critic, 0.3 * x, prompt.positive)
    print(f"\nEmbedding on {where}: error on the renders at new noise {start:.4f} to {end:.4f} in 20 steps")
    assert torch.equal(here.null, null) and not torch.equal(critic.embedding[0].detach(), null)
    assert end < start
    if where != "pixels":
        assert all(p.grad is None for p in here.unet.parameters())


def test_labels_that_are_integers_have_no_gradient():
    with pytest.raises(ValueError, match="conditioned on integer labels, which have no gradient"):
        EmbeddingCritic(points())


# The exact one.


def test_the_exact_critic_is_the_mixture_of_the_renders(generator):
    here, x = points(), torch.tensor([[0.0, 0.0], [1.0, 0.5], [-0.3, 2.0]])
    t, x_t = torch.tensor([50, 300, 900, 999]), randn((4, 2), generator)
    for std in (0.0, 0.2):
        critic = ExactCritic(here, std)
        critic.fit(x, torch.tensor([1, 2, 3]), torch.zeros(3, 2), ANY)
        mixture = GaussianMixturePrior(x, std)
        torch.testing.assert_close(critic.eps(x_t, t, ANY), mixture.eps(x_t, t, ANY)[0])
        y = x_t.clone().requires_grad_()  # and that is the score, by autograd of the density written out
        alpha, sigma = (f(t, y)[:, None] for f in (here.schedule.alpha, here.schedule.sigma))
        log_p = (-(y[:, None] - alpha * x).square().sum(-1) / (2 * (sigma**2 + (alpha * std) ** 2))[..., 0]).logsumexp(1)
        score, = torch.autograd.grad(log_p.sum(), y)
        torch.testing.assert_close(critic.eps(x_t, t, ANY), -sigma[..., 0] * score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("where", ["points", "pixels", "eps"])
def test_the_exact_critic_of_one_render_gives_back_the_noise(where):
    here = prior(where)
    x, t, eps, prompt = inputs(here, n=1)
    critic = ExactCritic(here)
    assert critic.fit(x, t, eps, prompt.positive) < 1e-9
    torch.testing.assert_close(critic.eps(here.add_noise(x, eps, t), t, prompt.positive), eps, atol=1e-4, rtol=1e-4)


def test_the_exact_critic_sees_only_the_last_renders_and_wants_some():
    here = points()
    x, t, eps, prompt = inputs(here)
    critic = ExactCritic(here)
    with pytest.raises(ValueError, match=r"no renders yet: call fit\(x, ...\) first"):
        critic.eps(x, t, prompt.positive)
    critic.fit(x + 9, t, eps, prompt.positive)
    critic.fit(x, t, eps, prompt.positive)
    other = ExactCritic(here)
    other.fit(x.requires_grad_(), t, eps, prompt.positive)
    assert torch.equal(critic.eps(x.detach(), t, prompt.positive), other.eps(x.detach(), t, prompt.positive))
    assert not other.particles.requires_grad


# All of them.


CRITICS = {"lora": lambda: LoRACritic(prior("eps"), lr=1e-2), "lora with v": lambda: LoRACritic(prior("v"), lr=1e-2),
           "embedding": lambda: EmbeddingCritic(prior("eps"), lr=1e-2), "exact": lambda: ExactCritic(prior("points"))}


@pytest.mark.parametrize("make", CRITICS.values(), ids=CRITICS)
def test_state_round_trips(make, tmp_path):
    """Through a file; ``fits`` comes along, so that the restored critic draws what the other would have."""
    first, second = make(), make()
    x, t, eps, prompt = inputs(first.prior)
    fit(first, x, prompt.positive, 3)
    save_file(first.state_dict(), tmp_path / "critic.safetensors")
    fit(second, -x, prompt.positive, 5)
    second.load_state_dict(load_file(tmp_path / "critic.safetensors"))
    assert second.fits == 3 and all(torch.equal(a, b) for a, b in zip(first.draw(x), second.draw(x), strict=True))
    assert fit(first, x, prompt.positive, 3) == fit(second, x, prompt.positive, 3)
    assert torch.equal(first.eps(x, t, prompt.positive), second.eps(x, t, prompt.positive))


def test_a_state_of_another_critic_is_named():
    with pytest.raises(ValueError, match="build the module it was saved from"):
        CRITICS["lora"]().load_state_dict(CRITICS["embedding"]().state_dict())
    with pytest.raises(ValueError, match="build the module it was saved from"):
        CRITICS["lora"]().load_state_dict(LoRACritic(prior("eps"), rank=2).state_dict())


def test_draws_are_reproducible_and_differ_from_fit_to_fit():
    x = randn((500, 2), seeded(0))
    a, b, c = (ExactCritic(points(), seed=seed) for seed in (0, 0, 1))
    (t, eps), (t_b, eps_b), (t_c, _) = a.draw(x), b.draw(x), c.draw(x)
    assert torch.equal(t, t_b) and torch.equal(eps, eps_b) and not torch.equal(t, t_c)
    assert t.min() >= 0 and t.max() < 1000 and t.max() - t.min() > 900
    again = a.draw(x)
    assert torch.equal(again[0], t)  # it is the fit that counts on
    a.fit(x, t, eps, ANY)
    later = a.draw(x)
    assert not torch.equal(later[0], t) and not torch.equal(later[1], eps)
    for step in range(5):  # and no draw is that of a step of the run
        assert not torch.equal(later[1], randn((500, 2), seeded(0, step)))


@pytest.mark.parametrize("pull", [-1.0, -1.5, float("nan")])
def test_a_pull_without_a_minimum_is_named(pull):
    for make in CRITICS.values():
        critic = make()
        x, t, eps, prompt = inputs(critic.prior)
        with pytest.raises(ValueError, match="pull must be > -1, got"):
            critic.fit(x, t, eps, prompt.positive, pull=pull)


def test_the_seed_makes_the_adapters():
    here = prior("eps")
    a, b, c = (torch.cat([p.flatten() for p in LoRACritic(here, seed=seed).learner.parameters.values()]) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    LoRACritic(here)
    assert torch.equal(state, torch.get_rng_state())


class Seen(ExactCritic):
    """Remembers what it was fitted with."""

    def fit(self, x, t, eps, cond, camera=None, pull=0.0):
        self.seen = t, eps, cond, pull
        return super().fit(x, t, eps, cond, camera, pull)


@pytest.mark.parametrize("rule", [VSD, APFO, ASD, LODS])
def test_what_each_rule_fits_its_critic_with(rule):
    """Noise of the critic's own; APFO at the residual's t, the others at t ~ U[0, T); LODS without the prompt."""
    critic = Seen(points())
    x, t, eps, prompt = inputs(critic.prior)
    drawn, noise = critic.draw(x)
    residual = rule(critic)(critic.prior, x, t, eps, prompt)
    t_fit, eps_fit, cond, pull = critic.seen
    assert torch.equal(eps_fit, noise) and not torch.equal(eps_fit, eps) and residual.loss.shape == ()
    assert torch.equal(t_fit, t if rule is APFO else drawn) and not torch.equal(t, drawn)
    assert torch.equal(cond, prompt.null if rule is LODS else prompt.positive)
    assert pull == (-0.75 if rule is ASD else 0.0) and critic.fits == 1


def test_without_a_unet_lora_is_the_exact_critic():
    assert isinstance(VSD.for_prior(prior("eps")).critic, LoRACritic)
    assert isinstance(VSD.for_prior(pixels()).critic, ExactCritic)


def test_comparable_priors_share_samples_and_schedule():
    """They need not be one object: a v-prediction model may stand beside an eps-prediction one."""
    here, twin = points(), points()
    comparable(ExactCritic(here), here)
    comparable(ExactCritic(here), twin)
    assert VSD(ExactCritic(here))(twin, *inputs(twin)).value.isfinite().all()
    with pytest.raises(ValueError, match=r"the critic was built on another prior \(GaussianMixturePrior\) than it works with "
                                         r"\(ImageMixturePrior\), its samples have shape \(2,\) and not \(3, 16, 16\)"):
        comparable(ExactCritic(here), pixels())


def rate(critic) -> float:
    return critic.learner.optimizer.param_groups[0]["lr"]


def test_the_critics_rate_is_the_given_one_or_the_cards_or_the_published(monkeypatch):
    bare, toybox = prior("eps"), prior("toybox")
    assert [rate(rule.for_prior(bare).critic) for rule in (VSD, APFO, ASD, LODS)] == [1e-4, 1e-4, 1e-4, 1e-5]
    assert [rate(rule.for_prior(toybox).critic) for rule in (VSD, LODS)] == [0.01, 0.01]
    assert [rate(rule.for_prior(toybox, critic_rate=0.5).critic) for rule in (VSD, LODS)] == [0.5, 0.5]
    monkeypatch.setattr(bare, "card", Card(critic_rate=0.2), raising=False)
    assert rate(ASD.for_prior(bare).critic) == 0.2


@pytest.mark.parametrize("make, message", [
    (lambda: LoRACritic(prior("eps"), rank=0), r"rank must be a whole number in \[1, 1000000\], got 0: change rank"),
    (lambda: LoRACritic(prior("eps"), lr=float("nan")), "lr must be a number above 0, got nan"),
    (lambda: EmbeddingCritic(prior("eps"), lr=0.0), "lr must be a number above 0, got 0.0"),
    (lambda: ExactCritic(points(), std=-0.1), "std must be a number at least 0, got -0.1"),
    (lambda: VSD.for_prior(prior("eps"), critic_rate=float("inf")), "critic_rate must be a number above 0 or none, got inf"),
    (lambda: LODS.for_prior(prior("eps"), critic_rate=-1.0), "critic_rate must be a number above 0 or none, got -1.0")])
def test_what_a_critic_cannot_use_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_learner_without_parameters_only_reports_the_loss():
    learner = Learner(torch.nn.Identity(), 0.1)
    assert learner.step(torch.tensor(2.0, requires_grad=True)) == 2 and learner.state_dict() == {}
    learner.load_state_dict({})
    learner.to(torch.device("cpu"))


def test_learner_is_adam_unless_weights_decay():
    def descend(optimiser):
        layer = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        step = optimiser(layer)
        for _ in range(5):
            step(layer(torch.tensor([[1.0, -2.0]])).square().sum())
        return layer.weight.detach()

    def adam(layer):
        optimiser = torch.optim.Adam(layer.parameters(), 0.1)

        def step(loss):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return step

    torch.testing.assert_close(descend(lambda layer: Learner(layer, 0.1).step), descend(adam))
    assert not torch.allclose(descend(lambda layer: Learner(layer, 0.1, weight_decay=0.5).step), descend(adam))


def test_a_learner_in_half_precision_keeps_gradients_that_fp16_cannot_hold():
    """The gradient of a mean over a batch is often below fp16's least number, 6e-8; the weights themselves are float32."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    learner = Learner(layer, 0.1)
    learner.step((layer.weight.half().float() * 1e-8).sum())
    assert layer.weight.item() < 0.96 and layer.weight.grad.item() == pytest.approx(1e-8, rel=1e-3)
    lost, = torch.autograd.grad((layer.weight.half().float() * 1e-8).sum(), layer.weight)
    assert lost.item() == 0


def test_a_learner_takes_no_step_along_a_gradient_that_is_not_finite():
    layer = torch.nn.Linear(1, 1)
    learner, before = Learner(layer, 0.1), layer.weight.item()
    with pytest.raises(FloatingPointError, match="Linear's loss is not finite"):
        learner.step(float("inf") * layer.weight.sum())
    assert layer.weight.item() == before and not learner.optimizer.state
