"""The hand-crafted networks that the paper compares with (Tables 1, 6 and 7).

There is one file for each family. A network is written once, of core's modules, for
every scheme. Under a binary scheme a convolution, its batch norm and its ReLU become
BN -> sign -> convolution -> the scheme's activation, for all convolutions but the first
and the classifier (docs/networks.md). Under `float` the network is the published one,
in its published order.
"""
