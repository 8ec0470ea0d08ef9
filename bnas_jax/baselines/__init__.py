"""The hand-crafted networks that the paper compares with (Tables 1, 6, 7), one file a
family.

Each is written once, of core's modules, for every scheme: under a binary one a
convolution, its batch norm and its ReLU become BN -> sign -> convolution -> the
scheme's activation, for all convolutions but the first and the classifier
(docs/networks.md); under `float` the network is the published one, in its published
order.
"""
