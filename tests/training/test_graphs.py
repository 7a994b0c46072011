"""CUDA graphs on a device: what a capture leaves behind when it fails, and that each device has its own."""

import gc

import pytest
import torch

from sjc_fast.training import graphs

pytestmark = pytest.mark.gpu


def asks_the_host(x):
    return lambda: float((x + 1)[0])


def is_interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("reason", ["host", "memory", "interrupt"])
def test_a_failed_capture_leaves_nothing_behind(reason):
    device = torch.device("cuda", 0)
    x = torch.zeros(1 << 20, device=device)
    failing = {
        "host": asks_the_host(x),
        "memory": lambda: torch.empty(1 << 45, dtype=torch.uint8, device=device),
        "interrupt": is_interrupted,
    }
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        graphs.capture(failing[reason], device)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.rand(3, device=device)  # a generator that believes in a capture refuses
    gc.collect()
    torch.cuda.empty_cache()
    held, other = torch.cuda.memory_reserved(), torch.cuda.Stream()
    for _ in range(20):  # an open pool keeps what other streams used
        block = torch.empty(64 << 20, dtype=torch.uint8, device=device)
        block.record_stream(other)
        del block
    assert torch.cuda.memory_reserved() - held <= 2 * 64 << 20
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held
    before = x.clone()
    replay = graphs.capture(lambda: x.add_(1), device)
    replay()
    torch.testing.assert_close(x, before + 1, rtol=0, atol=0)


def test_every_device_records_on_a_stream_of_its_own():
    """The second device's graph holds its work, instead of the work being done while it is recorded."""
    devices = [torch.device("cuda", i) for i in range(min(2, torch.cuda.device_count()))]
    for device in devices:
        x = torch.zeros(4, device=device)
        replay = graphs.capture(lambda x=x: x.add_(1), device)
        assert float(x.sum()) == 0
        replay()
        assert float(x.sum()) == 4
    assert torch.cuda.current_device() == 0
    assert len({graphs._stream(device.index).device for device in devices}) == len(devices)
