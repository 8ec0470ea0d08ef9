"""How a kernel moves over an image."""

import pytest

from bnas_jax.core.ops.geometry import rectangle


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (5, 1), (3, 7)])
def test_the_usual_padding_keeps_the_size_of_an_image(kernel, dilation):
    geometry = rectangle(kernel, dilation=dilation)
    assert geometry.output_size((17, 20), kernel) == (17, 20)
    strided = rectangle(kernel, stride=(1, 2), dilation=dilation)
    assert strided.output_size((17, 20), kernel) == (17, 10)
