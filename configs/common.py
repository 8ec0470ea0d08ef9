"""What the configs of search and training share. See search.py and train.py."""

from ml_collections import ConfigDict, config_dict

from bnas_jax.settings import DistributedSettings, template

optional_int = lambda: config_dict.placeholder(int)
optional_float = lambda: config_dict.placeholder(float)
optional_bool = lambda: config_dict.placeholder(bool)
optional_str = lambda: config_dict.placeholder(str)
optional_tuple = lambda: config_dict.placeholder(tuple)


def base(task: str) -> ConfigDict:
    """Settings without a value (None) take that of their convention."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.conventions = "paper"  # the text; or release, the authors' code; or meant, that code without its index error
    config.precision = (
        "float32"  # or bfloat16 (products of the convolutions alone), float64 (exact checks)
    )
    config.matmul_precision = (
        "highest"  # of float32 products; or high, default: shorter factors on GPUs and TPUs
    )
    config.parallel = "auto"  # pmap on several devices, else none; or pmap, shard_map, none
    config.sync_bn = True  # batch norm over all devices: their number changes rounding alone
    config.bn_examples = (
        optional_int()
    )  # normalised together, on any number of devices; None: all of a microbatch
    config.num_epochs = optional_int()
    config.batch_size = optional_int()  # over all devices
    config.microbatches = 1  # > 1 needs less memory: parts of the batch one after the other
    config.eval_batch_size = 256
    config.steps_per_call = 1  # more is for GPUs and TPUs, where a step takes milliseconds
    config.log_every_steps = 100
    config.checkpoint_every_steps = optional_int()  # besides the end of each epoch
    config.checkpoint_every_minutes = optional_float()
    config.checkpoint = ConfigDict({"keep_last": 2, "keep_best": 1})
    config.distributed = template.fields(DistributedSettings)  # None: one, or as the cluster says
    config.distributed.timeout_seconds = 600  # for another process to start, or to answer
    config.dataset = ConfigDict({"name": "cifar10"})
    config.dataset.path = optional_str()
    config.dataset.mean = (
        optional_tuple()
    )  # of each channel, on the scale 0 to 1; None: the data set's
    config.dataset.std = optional_tuple()
    config.dataset.pad = optional_int()
    config.dataset.flip = optional_bool()
    config.dataset.min_area = optional_float()  # of the random resized crop of a streamed set
    config.dataset.jitter = optional_tuple()  # of brightness, contrast, saturation, hue
    config.dataset.cutout = optional_int()  # side of the square that is hidden at random, in pixels
    config.dataset.image_size = optional_int()
    config.dataset.resize = optional_int()  # image_size is the centre of this
    config.dataset.channels = optional_int()
    config.dataset.white_level = (
        optional_float()
    )  # the number that is white in images of more than 8 bits
    config.dataset.split = optional_float()  # share that is for tests, of a set without test images
    config.dataset.split_seed = 0
    config.dataset.in_memory_mib = optional_int()  # larger sets are streamed
    config.dataset.bad_images = "fail"  # or skip
    config.dataset.workers = 0  # processes that read a streamed set
    config.scheme = template.group(
        "scheme", "xnor"
    )  # or float, or an extension's: see core/schemes
    config.preset = ConfigDict()  # of what a recipe speaks for, see train.py
    config.paper = ConfigDict()
    config.release = ConfigDict()
    config.meant = ConfigDict()  # what differs from release
    return config
