"""Weights of PyTorch give the same values here; docs/from/pytorch.md shows these very lines."""

import numpy as np
import pytest

import lamina as lm

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers
nn, F = torch.nn, torch.nn.functional

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def numpy(t):
    return t.detach().numpy()


def made(layer):
    """Return a layer of PyTorch, in inference, all its weights random and unequal."""
    with torch.no_grad():
        for name, a in layer.state_dict().items():
            if a.is_floating_point():
                a[...] = torch.tensor(draw(*a.shape))
                if name == "running_var":
                    a.abs_()
    return layer.eval()


def first(images):
    """Return a batch of images channels first, as PyTorch takes it."""
    return torch.tensor(images.transpose(0, 3, 1, 2))


def close(ours, theirs):
    np.testing.assert_allclose(ours, numpy(theirs), rtol=1e-4, atol=2e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_weights_along():
    table, images, steps = draw(5, 4), draw(2, 7, 8, 4), draw(3, 6, 4)
    torch_linear, torch_norm = made(nn.Linear(4, 3)), made(nn.BatchNorm2d(4))
    torch_conv, torch_grouped = (made(nn.Conv2d(4, 8, (3, 2), groups=g)) for g in (1, 2))
    torch_conv1d = made(nn.Conv1d(4, 8, 3))
    torch_transposed = made(nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, (1, 0), groups=2))
    torch_embedding = made(nn.Embedding(9, 4))
    torch_rnn, torch_gru, torch_lstm, torch_projected, torch_deep, torch_deep_gru = (
        made(kind(4, 8, batch_first=True, **options))
        for kind, options in (
            (nn.RNN, {}),
            (nn.GRU, {}),
            (nn.LSTM, {}),
            (nn.LSTM, {"proj_size": 5}),
            (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
            (nn.GRU, {"num_layers": 2, "bidirectional": True}),
        )
    )

    linear, norm, embedding = lm.Linear(4, 3), lm.BatchNorm(4), lm.Embedding(9, 4)
    conv, grouped = (lm.Conv2d(4, 8, (3, 2), groups=g) for g in (1, 2))
    conv1d = lm.Conv1d(4, 8, 3)
    transposed = lm.ConvTranspose2d(
        4, 6, (3, 2), stride=2, padding=1, output_padding=(1, 0), groups=2
    )
    rnn, gru, lstm = lm.RNN(4, 8), lm.GRU(4, 8), lm.LSTM(4, 8)
    projected = lm.LSTM(4, 8, projection=5)
    deep, deep_gru = (kind(4, 8, layers=2, bidirectional=True) for kind in (lm.LSTM, lm.GRU))

    # Take weights along
    def numpy(t):
        return t.detach().numpy()

    linear.weight = numpy(torch_linear.weight).T
    linear.bias = numpy(torch_linear.bias)

    conv.weight = numpy(torch_conv.weight).transpose(2, 3, 1, 0)  # (O, C, K, K) to (K, K, C, O)
    conv.bias = numpy(torch_conv.bias)
    grouped.weight = numpy(torch_grouped.weight).transpose(2, 3, 1, 0)  # groups in one order
    grouped.bias = numpy(torch_grouped.bias)
    conv1d.weight = numpy(torch_conv1d.weight).transpose(2, 1, 0)
    conv1d.bias = numpy(torch_conv1d.bias)
    weight = numpy(torch_transposed.weight)  # (C, O/G, K, K) to (K, K, O/G, C)
    transposed.weight = weight.transpose(2, 3, 1, 0)
    transposed.bias = numpy(torch_transposed.bias)

    norm.gamma, norm.beta = numpy(torch_norm.weight), numpy(torch_norm.bias)
    norm.running_mean = numpy(torch_norm.running_mean)
    norm.running_var = numpy(torch_norm.running_var)
    norm.batches = numpy(torch_norm.num_batches_tracked)  # counts with momentum=None

    embedding.weight = numpy(torch_embedding.weight)

    lstm.weight_x = numpy(torch_lstm.weight_ih_l0).T  # gates i, f, g, o in both
    lstm.weight_h = numpy(torch_lstm.weight_hh_l0).T
    lstm.bias = numpy(torch_lstm.bias_ih_l0 + torch_lstm.bias_hh_l0)  # two there, one here

    rnn.weight_x = numpy(torch_rnn.weight_ih_l0).T
    rnn.weight_h = numpy(torch_rnn.weight_hh_l0).T
    rnn.bias = numpy(torch_rnn.bias_ih_l0 + torch_rnn.bias_hh_l0)

    gru.weight_x = numpy(torch_gru.weight_ih_l0).T  # gates r, z, n in both
    gru.weight_h = numpy(torch_gru.weight_hh_l0).T
    bias, bias_h = numpy(torch_gru.bias_ih_l0).copy(), numpy(torch_gru.bias_hh_l0)
    bias[:16] += bias_h[:16]  # of r and z, 2 H, the sum counts
    gru.bias, gru.bias_h = bias, bias_h[16:]

    # Further layers and directions, of a projection weight_p too
    def take(ours, theirs, here="", there="l0"):
        def of(name):
            return numpy(getattr(theirs, f"{name}_{there}"))

        ours.params[f"weight_x{here}"][...] = of("weight_ih").T
        ours.params[f"weight_h{here}"][...] = of("weight_hh").T
        if theirs.proj_size:
            ours.params[f"weight_p{here}"][...] = of("weight_hr").T
        bias, bias_h = of("bias_ih").copy(), of("bias_hh")
        added = 2 * theirs.hidden_size if theirs.mode == "GRU" else len(bias)
        bias[:added] += bias_h[:added]
        ours.params[f"bias{here}"][...] = bias
        if theirs.mode == "GRU":
            ours.params[f"bias_h{here}"][...] = bias_h[added:]

    take(projected, torch_projected)
    for ours, theirs in ((deep, torch_deep), (deep_gru, torch_deep_gru)):
        take(ours, theirs)
        take(ours, theirs, "_reverse", "l0_reverse")
        take(ours, theirs, "_1", "l1")
        take(ours, theirs, "_1_reverse", "l1_reverse")
    # What came of it

    close(linear(table), torch_linear(torch.tensor(table)))
    for ours, theirs in ((conv, torch_conv), (grouped, torch_grouped), (norm, torch_norm)):
        close(ours(images), theirs(first(images)).permute(0, 2, 3, 1))
    close(conv1d(steps), torch_conv1d(torch.tensor(steps).mT).mT)
    close(transposed(images), torch_transposed(first(images)).movedim(1, -1))
    numbers = RNG.integers(0, 9, (3, 6))
    close(embedding(numbers), torch_embedding(torch.tensor(numbers)))
    y, _ = norm.forward(images, training=True)
    close(y, torch_norm.train()(first(images)).permute(0, 2, 3, 1))
    close(norm.running_mean, torch_norm.running_mean)
    close(norm.running_var, torch_norm.running_var)
    lengths = [6, 3, 1]
    packed = nn.utils.rnn.pack_padded_sequence(torch.tensor(steps), lengths, batch_first=True)
    for ours, theirs in (
        (lstm, torch_lstm),
        (rnn, torch_rnn),
        (gru, torch_gru),
        (projected, torch_projected),
        (deep, torch_deep),
        (deep_gru, torch_deep_gru),
    ):
        close(ours(steps), theirs(torch.tensor(steps))[0])
        y, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
        close(ours(steps, lengths=np.array(lengths)), y)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_first_states(kind):
    """A state of PyTorch's, (layers x directions, N, H), as the page turns it."""
    options, x = {"bias": False, "bidirectional": True}, draw(3, 6, 4)
    theirs = made(getattr(nn, kind)(4, 8, num_layers=2, batch_first=True, **options))
    ours = getattr(lm, kind)(4, 8, layers=2, **options)
    for here, there in (("", "l0"), ("_reverse", "l0_reverse"), ("_1", "l1")):
        ours.params[f"weight_x{here}"][...] = numpy(getattr(theirs, f"weight_ih_{there}")).T
        ours.params[f"weight_h{here}"][...] = numpy(getattr(theirs, f"weight_hh_{there}")).T
    ours.params["weight_x_1_reverse"][...] = numpy(theirs.weight_ih_l1_reverse).T
    ours.params["weight_h_1_reverse"][...] = numpy(theirs.weight_hh_l1_reverse).T
    states = (draw(4, 3, 8), draw(4, 3, 8))[: 1 + (kind == "LSTM")]
    given = tuple(torch.tensor(a) for a in states)
    expected, ends = theirs(torch.tensor(x), given if kind == "LSTM" else given[0])
    y, after, _ = ours.run(x, tuple(zip(*states, strict=True)))
    close(y, expected)
    for a, end in zip(zip(*after, strict=True), ends if kind == "LSTM" else (ends,), strict=True):
        close(np.stack(a), end)


def test_linear_behind_flatten():
    N, H, W, C = 2, 5, 6, 3
    images = draw(N, H, W, C)
    torch_linear, linear = made(nn.Linear(C * H * W, 4)), lm.Linear(H * W * C, 4)

    # Behind a Flatten
    weight = numpy(torch_linear.weight).reshape(-1, C, H, W).transpose(2, 3, 1, 0)
    linear.weight = weight.reshape(H * W * C, -1)
    linear.bias = numpy(torch_linear.bias)
    # What came of it

    ours, theirs = lm.Sequential(lm.Flatten(), linear), nn.Sequential(nn.Flatten(), torch_linear)
    close(ours(images), theirs(first(images)))


def torch_step(model, optimizer, x, target):
    # PyTorch
    optimizer.zero_grad()
    y = model(x)
    loss = F.cross_entropy(y, target)
    loss.backward()
    optimizer.step()
    # A step
    return loss


def lamina_step(model, optimizer, x, target):
    # Lamina
    y, cache = model.forward(x, training=True)
    value, dy = lm.CrossEntropy()(y, target)
    dx, grads = model.backward(dy, cache)
    optimizer.step(model.params, grads)
    # A step
    return value, dx


def test_training_step():
    x, target = draw(5, 4), RNG.integers(0, 3, 5)
    theirs, ours = made(nn.Linear(4, 3)), lm.Linear(4, 3)
    ours.weight, ours.bias = numpy(theirs.weight).T, numpy(theirs.bias)
    leaf = torch.tensor(x, requires_grad=True)
    for _ in range(3):
        leaf.grad = None
        loss = torch_step(
            theirs, torch.optim.SGD(theirs.parameters(), 0.1), leaf, torch.tensor(target)
        )
        value, dx = lamina_step(ours, lm.SGD(0.1), x, target)
        close(value, loss)
        close(dx, leaf.grad)
    close(ours.weight, theirs.weight.T)
    close(ours.bias, theirs.bias)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("layer", ["RNN", "LSTM"])
def test_training_a_recurrent_layer_on(layer, kind):
    """Its bias is the sum of two there, both of which move."""
    theirs, ours = made(getattr(nn, layer)(4, 8, batch_first=True)), getattr(lm, layer)(4, 8)
    ours.weight_x, ours.weight_h = numpy(theirs.weight_ih_l0).T, numpy(theirs.weight_hh_l0).T
    ours.bias = numpy(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    optimizer = getattr(torch.optim, kind)(theirs.parameters(), 0.01)
    mine = getattr(lm, kind)(0.01, groups={"*bias*": {"lr": 0.02}})
    x, target = draw(3, 6, 4), RNG.integers(0, 8, (3, 6))
    for _ in range(3):
        torch_step(lambda x: theirs(x)[0].mT, optimizer, torch.tensor(x), torch.tensor(target))
        lamina_step(ours, mine, x, target)
    close(ours.weight_x, theirs.weight_ih_l0.T)
    close(ours.bias, theirs.bias_ih_l0 + theirs.bias_hh_l0)


def test_weight_decay_of_all():
    """PyTorch's decays biases, too, which here are spared unless `no_decay` is empty."""
    theirs, x = made(nn.Linear(4, 3)), draw(5, 4)
    for kind in ("SGD", "Adam", "AdamW", "RMSprop"):
        ours = lm.Linear(4, 3)
        ours.weight, ours.bias = numpy(theirs.weight).T, numpy(theirs.bias)
        target = RNG.integers(0, 3, 5)
        optimizer = getattr(torch.optim, kind)(theirs.parameters(), lr=0.01, weight_decay=0.1)
        mine = getattr(lm, kind)(0.01, weight_decay=0.1, no_decay=())
        for _ in range(3):
            torch_step(theirs, optimizer, torch.tensor(x), torch.tensor(target))
            lamina_step(ours, mine, x, target)
        close(ours.weight, theirs.weight.T)
        close(ours.bias, theirs.bias)


def test_settings():
    """What the page says differs, and what it says does not."""
    with pytest.raises(ValueError, match="padding='same' is not supported for strided"):
        nn.Conv2d(1, 1, 3, stride=2, padding="same")
    assert lm.Conv2d(1, 1, 3, stride=2, padding="same").output_shape((1, 7, 7, 1)) == (1, 4, 4, 1)
    assert nn.BatchNorm2d(8).momentum == pytest.approx(1 - lm.BatchNorm(8).momentum)
    assert nn.BatchNorm2d(8).eps == lm.BatchNorm(8).eps
    with pytest.warns(UserWarning, match="momentum"):
        lm.BatchNorm(8, momentum=0.1)
    with pytest.raises(TypeError, match="float64"):
        lm.Linear(4, 3)(np.ones((2, 4)))
    x = draw(2, 5, 6, 3)
    expected = nn.AvgPool2d(3, 2, 1, count_include_pad=False)(first(x)).permute(0, 2, 3, 1)
    close(lm.AvgPool2d(3, 2, padding=1)(x), expected)
    mean = lm.Conv2d(3, 3, 3, stride=2, padding=1, groups=3, bias=False)
    mean.weight = np.full(mean.weight.shape, 1 / 9)
    close(mean(x), nn.AvgPool2d(3, 2, 1)(first(x)).permute(0, 2, 3, 1))
    model = nn.Linear(4, 3)
    assert len(model.state_dict()) == len(lm.Linear(4, 3).params)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1)])
def test_ceil_mode(kernel, stride, padding, size):
    """Where the padding that stands for it is taken, there are as many windows, and the same."""
    x, more = draw(2, size, size + 1, 3), (padding, padding + stride - 1)
    for kind, options in (("MaxPool2d", {}), ("AvgPool2d", {"count_include_pad": False})):
        theirs = getattr(nn, kind)(kernel, stride, padding, ceil_mode=True, **options)
        ours = getattr(lm, kind)(kernel, stride=stride, padding=(more, more))
        close(ours(x), theirs(first(x)).permute(0, 2, 3, 1))


def test_tensors_that_are_no_arrays():
    """Weights and x may be tensors; where NumPy takes none, PyTorch's reason is passed on."""
    linear, weight = lm.Linear(4, 3), torch.tensor(draw(4, 3), requires_grad=True)
    linear.weight = weight.detach()
    close(linear.weight, weight)
    for x, message in (
        (torch.ones(2, 4).bfloat16(), r"BFloat16; cast it: x\.float\(\)"),
        (torch.ones(2, 4, requires_grad=True), r"requires grad\. Use tensor\.detach\(\)"),
        (torch.ones(2, 4).to_sparse(), r"Use Tensor\.to_dense\(\)"),
    ):
        with pytest.raises(TypeError, match=rf"^Linear\(4, 3\): x does not .*{message}"):
            linear(x)
    with pytest.raises(TypeError, match=r"^Linear\(4, 3\): weight .*cast it: weight\.float\(\)"):
        linear.weight = weight.bfloat16().detach()
