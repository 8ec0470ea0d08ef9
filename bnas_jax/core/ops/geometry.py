"""How a kernel moves over an image: stride, zero padding, dilation and groups."""

import dataclasses

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an image. Each pair is (rows, columns).

    stride, dilation: in pixels.
    padding: the number of zeros on each side.
    groups: the number of groups that the input and output channels are divided into.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, image: Pair, kernel: Pair) -> Pair:
        """(H', W') of the output for an image and a kernel of the sizes (H, W)."""
        return self._length(image, kernel, axis=0), self._length(image, kernel, axis=1)

    def _length(self, image: Pair, kernel: Pair, *, axis: int) -> int:
        """The length of the output along one axis.

        It is the number of positions of the dilated kernel in the padded image.
        """
        reach = self.dilation[axis] * (kernel[axis] - 1) + 1  # of the dilated kernel
        room = image[axis] + 2 * self.padding[axis] - reach
        return room // self.stride[axis] + 1


def square(
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Geometry:
    """The geometry of a square kernel; see `rectangle`."""
    return rectangle(
        (kernel, kernel),
        stride=(stride, stride),
        dilation=dilation,
        padding=padding,
        groups=groups,
    )


def rectangle(
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Geometry:
    """The geometry of a kernel of (rows, columns).

    The padding is symmetric at stride 2 as well, as in PyTorch; XLA's "SAME" is not.

    padding: None keeps the image's size at stride 1, for odd kernels.
    """
    rows, columns = kernel
    if padding is None:
        # Half the extent of the dilated kernel.
        pads = (dilation * (rows - 1) // 2, dilation * (columns - 1) // 2)
    else:
        pads = (padding, padding)
    return Geometry(
        stride=stride,
        padding=pads,
        dilation=(dilation, dilation),
        groups=groups,
    )


POINT = Geometry()
