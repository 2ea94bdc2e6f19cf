"""Every config key that rpanoptic adds to Detectron2's, each with a comment, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_rpanoptic_config(cfg: CfgNode) -> None:
    """Add rpanoptic's keys, with their defaults, to a Detectron2 config, in place.

    Everything about recurrence stands under ``MODEL.RECURRENT``, a sub-node for each place that
    holds a recurrent block. What concerns a run and not the model stands under ``RPANOPTIC``.
    Detectron2's own nodes keep their meaning and their defaults.

    Args:
        cfg: a config made by :func:`detectron2.config.get_cfg`. Calling twice is harmless: keys
            that are already there keep their values.
    """
    # Imported here so that ``import rpanoptic`` works before Detectron2 is installed.
    from detectron2.config import CfgNode as CN

    if "RECURRENT" in cfg.MODEL and "RPANOPTIC" in cfg:
        return

    cfg.MODEL.RECURRENT = CN()

    # RecurrentMaskRCNNHead, chosen by MODEL.ROI_MASK_HEAD.NAME. The state has
    # MODEL.ROI_MASK_HEAD.CONV_DIM channels at POOLER_RESOLUTION; NUM_CONV and NORM are unused.
    cfg.MODEL.RECURRENT.MASK_HEAD = _recurrent_block_defaults()
    # Normalisation of the equilibrium, outside the recurrence: "SyncBN", "naiveSyncBN", "BN",
    # "FrozenBN", "GN" (as detectron2.layers.get_norm has them), or "" for none.
    cfg.MODEL.RECURRENT.MASK_HEAD.OUTPUT_NORM = "SyncBN"

    # RecurrentSemSegFPNHead, chosen by MODEL.SEM_SEG_HEAD.NAME: a recurrence on the sum of the
    # levels, of MODEL.SEM_SEG_HEAD.CONVS_DIM channels.
    cfg.MODEL.RECURRENT.SEM_SEG_HEAD = _recurrent_block_defaults()
    # As MASK_HEAD.OUTPUT_NORM.
    cfg.MODEL.RECURRENT.SEM_SEG_HEAD.OUTPUT_NORM = "GN"

    # The recurrent FPNs, chosen by MODEL.BACKBONE.NAME: build_recurrent_fpn_backbone and
    # build_recurrent_retinanet_fpn_backbone. States have MODEL.FPN.OUT_CHANNELS channels.
    cfg.MODEL.RECURRENT.FPN = _recurrent_block_defaults()
    # Where the recurrence is: "lateral" (a cell in place of each 1 x 1 lateral convolution, driven
    # by the backbone's features: CELL must take a drive of more channels, as "hgru_low_dim"),
    # "output" (a cell after each lateral convolution, each level with an equilibrium of its own),
    # or "topdown" (cells and gated top-down cells from the level above in one joint equilibrium).
    # MODEL.FPN.FUSE_TYPE has no meaning at "topdown", where levels are not added. The top-down
    # cells take NORM, BIAS_INIT and STEPS of this node; NONLINEARITY and KERNEL_SIZE are those of
    # the levels' own cells alone.
    cfg.MODEL.RECURRENT.FPN.PLACE = "output"
    # Side of the kernels of the gated top-down cells of "topdown"; odd.
    cfg.MODEL.RECURRENT.FPN.TOP_DOWN_KERNEL_SIZE = 1
    # Normalisation of the equilibria, as MASK_HEAD.OUTPUT_NORM.
    cfg.MODEL.RECURRENT.FPN.OUTPUT_NORM = "GN"

    # The recurrent ResNets, chosen by MODEL.BACKBONE.NAME: build_recurrent_resnet_backbone, and
    # under an FPN build_recurrent_resnet_fpn_backbone and
    # build_recurrent_retinanet_resnet_fpn_backbone. States have the stages' channels.
    cfg.MODEL.RECURRENT.RESNET = _recurrent_block_defaults()
    # Stages that a cell follows, of "res2" to "res5".
    cfg.MODEL.RECURRENT.RESNET.STAGES = ["res3", "res4", "res5"]
    # Gated feedback from each of these stages to the one before it, which must be its neighbour.
    # All states then share one joint equilibrium. The stages after the first are a part of its
    # step, where MODEL.RESNETS.NORM and OUTPUT_NORM must keep no statistics of batches: "FrozenBN"
    # or "GN". The feedback's cells take NORM, BIAS_INIT and STEPS of this node; NONLINEARITY and
    # KERNEL_SIZE are those of the stages' own cells alone.
    cfg.MODEL.RECURRENT.RESNET.FEEDBACK = False
    # Side of the kernels of the feedback's cells; odd.
    cfg.MODEL.RECURRENT.RESNET.FEEDBACK_KERNEL_SIZE = 1
    # Normalisation of the equilibria, as MASK_HEAD.OUTPUT_NORM.
    cfg.MODEL.RECURRENT.RESNET.OUTPUT_NORM = "GN"

    # The task-driven ConvRNN, chosen by MODEL.BACKBONE.NAME: build_convrnn_backbone, and under an
    # FPN build_convrnn_fpn_backbone and build_convrnn_retinanet_fpn_backbone.
    # The default: ten layers with reciprocal gated cells, back-propagation through time, and as
    # many steps as are left to the layers from conv4 on in the published 17, counted from the image
    # to the classifier. Untrained, with its own NONLINEARITY, "elu", and with feedback it amplifies
    # its activity from step to step and has no equilibrium; with "tanh" it settles, soonest with
    # residual layers and DELAY 0.
    cfg.MODEL.RECURRENT.CONVRNN = _recurrent_block_defaults()
    cfg.MODEL.RECURRENT.CONVRNN.CELL = "reciprocal_gated"
    cfg.MODEL.RECURRENT.CONVRNN.GRADIENT = "bptt"
    # Steps of the loop, which begins with the first layer that holds a cell or is fed back to; in
    # step 1 that layer sees the image.
    cfg.MODEL.RECURRENT.CONVRNN.STEPS = 13
    # The layers, in the order in which the image passes them, a mapping each:
    #   name, channels (of its convolution);
    #   kernel_size (3), stride (1): of the convolution;
    #   pool (False): whether a 2 x 2 max-pooling follows the layer;
    #   residual (False): a block of two convolutions with the cell between them and a shortcut, or
    #     a convolution and the cell; the published network with feedback has the latter;
    #   activation ("elu"): what follows its convolutions; "" for nothing;
    #   cell (False): True for CELL with the keys of this node; the name of a cell, with its own
    #     defaults; or a mapping with its "name", options of its class and, where its output has
    #     others than the convolution, "channels".
    # No cells, and no feedback either, is the feed-forward base network.
    cfg.MODEL.RECURRENT.CONVRNN.LAYERS = _ten_layers()
    # Factor of the channels of all layers and cells, rounded and at least 1.
    cfg.MODEL.RECURRENT.CONVRNN.WIDTH = 1.0
    # Long-range feedback, pairs of a layer and an earlier one that it acts on.
    cfg.MODEL.RECURRENT.CONVRNN.FEEDBACK = [
        ["conv8", "conv5"],
        ["conv9", "conv6"],
        ["conv10", "conv7"],
        ["conv7", "conv6"],
        ["conv10", "conv9"],
    ]
    # The convolution through which feedback passes, at the size of the layer that it acts on: side
    # of its kernel in pixels; whether it is one of each channel and then one of 1 x 1; what follows
    # it ("" or as NONLINEARITY); and what becomes of drive u and feedback f: "add", "multiply", or
    # "gate", u sigmoid(f). Cells that take feedback themselves have a way of their own.
    cfg.MODEL.RECURRENT.CONVRNN.CONNECTION = CN()
    cfg.MODEL.RECURRENT.CONVRNN.CONNECTION.KERNEL_SIZE = 1
    cfg.MODEL.RECURRENT.CONVRNN.CONNECTION.SEPARABLE = False
    cfg.MODEL.RECURRENT.CONVRNN.CONNECTION.NONLINEARITY = ""
    cfg.MODEL.RECURRENT.CONVRNN.CONNECTION.COMBINATION = "add"
    # 1: every connection between layers takes a step, so that STEPS must be at least the number of
    # layers from the first with a cell or feedback on (7 by default). 0: a step is a sweep through
    # all layers, with feedback from the step before.
    cfg.MODEL.RECURRENT.CONVRNN.DELAY = 1
    # Steps that see the image, no more than are run; BLANK takes its place in later ones. 0: all
    # see it. Else it needs GRADIENT "bptt" or "checkpointed_bptt" and steps that neither stop early
    # nor are accelerated. A network without a loop sees the image whatever stands here.
    cfg.MODEL.RECURRENT.CONVRNN.IMAGE_STEPS = 0
    # "normalised_0.5": 0.5 in the normalised image, as published; "pixel_grey": mid grey, 127.5.
    cfg.MODEL.RECURRENT.CONVRNN.BLANK = "normalised_0.5"
    # "faithful": all layers of the loop at every step. "pruned": those that the outputs depend on,
    # and once for all images what no image has reached yet; outputs and gradients are equal. Needs
    # what IMAGE_STEPS needs; no residuals are logged.
    cfg.MODEL.RECURRENT.CONVRNN.SCHEDULE = "faithful"
    # "last": the outputs after the last step. "mean": over the steps from the image's arrival on;
    # needs what IMAGE_STEPS needs.
    cfg.MODEL.RECURRENT.CONVRNN.READOUT = "last"
    # Outputs: "res2" to "res5" (the last layers of the strides 4 to 32: conv4, conv6, conv7, conv10
    # by default), or names of layers, each before its pooling. Layers that none of them depends on
    # are not built.
    cfg.MODEL.RECURRENT.CONVRNN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Normalisation of the outputs, as MASK_HEAD.OUTPUT_NORM. The published network has none.
    cfg.MODEL.RECURRENT.CONVRNN.OUTPUT_NORM = ""

    # The recurrent model of Pathfinder, chosen by MODEL.BACKBONE.NAME
    # build_pathfinder_recurrent_backbone. Drive and state have MODEL.PATHFINDER.CHANNELS channels.
    # The penalty is the paper's: larger than elsewhere because it is a mean over all features.
    cfg.MODEL.RECURRENT.PATHFINDER = _recurrent_block_defaults()
    cfg.MODEL.RECURRENT.PATHFINDER.CELL = "hgru_pathfinder"
    cfg.MODEL.RECURRENT.PATHFINDER.LIPSCHITZ.TAU = 0.9
    cfg.MODEL.RECURRENT.PATHFINDER.LIPSCHITZ.WEIGHT = 10.0
    cfg.MODEL.RECURRENT.PATHFINDER.LIPSCHITZ.REDUCTION = "mean"

    # The models of Pathfinder, recurrent or not: MODEL.META_ARCHITECTURE ContourSegmentor, with
    # MODEL.SEM_SEG_HEAD.NAME ContourHead, or ContourClassifier; and MODEL.BACKBONE.NAME
    # build_pathfinder_recurrent_backbone, build_pathfinder_feedforward_backbone or
    # build_pathfinder_unet_backbone.
    cfg.MODEL.PATHFINDER = CN()
    # Channels of the first layer, of the state and of the feed-forward layers; of the U-Net's first
    # level.
    cfg.MODEL.PATHFINDER.CHANNELS = 25
    # What the kernels of the recurrent model's first layer start as: "gabor" (a bank of Gabor
    # filters and a disc) or "random".
    cfg.MODEL.PATHFINDER.STEM = "gabor"
    # Side of the first layer's kernels, in pixels; odd, and at least 5 for STEM "gabor".
    cfg.MODEL.PATHFINDER.STEM_SIZE = 7
    # What follows the first layer of the recurrent model: "square", "relu" or "none".
    cfg.MODEL.PATHFINDER.STEM_ACTIVATION = "square"
    # Layers after the first of the feed-forward model. Its last one ends in a norm: as published,
    # OUTPUT_NORM is "" with it.
    cfg.MODEL.PATHFINDER.LAYERS = 6
    # Side of the kernels of these layers, in pixels; odd.
    cfg.MODEL.PATHFINDER.KERNEL_SIZE = 15
    # Normalisation of the features before the readout, as MASK_HEAD.OUTPUT_NORM above.
    cfg.MODEL.PATHFINDER.OUTPUT_NORM = "BN"
    # Probability of the foreground that an untrained readout starts near; above 0 and below 1.
    cfg.MODEL.PATHFINDER.FOREGROUND_PRIOR = 0.01
    # Exponent of the focal loss; 0 is the cross-entropy.
    cfg.MODEL.PATHFINDER.FOCAL_GAMMA = 2.0
    # Sum the loss over the readouts of all steps, and not of the last alone. Needs GRADIENT "bptt"
    # or "checkpointed_bptt".
    cfg.MODEL.PATHFINDER.STEP_LOSS = False

    # Classifiers of pictures: MODEL.META_ARCHITECTURE ImageClassifier on any backbone.
    cfg.MODEL.CLASSIFIER = CN()
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # The backbone's output that is read out, by name; "" takes the last, of the largest stride. No
    # layer of a ConvRNN may be without a bearing on it.
    cfg.MODEL.CLASSIFIER.IN_FEATURE = ""
    # 2 x 2 max-pooling before the readout: the published ConvRNNs pool after their last layer too.
    cfg.MODEL.CLASSIFIER.POOL = False
    # What reads out: "linear" (global average, then a linear layer) or "convolution" (a 2 x 2
    # convolution without padding, then the global average).
    cfg.MODEL.CLASSIFIER.PREDICTOR = "linear"
    # Probability with which a feature is dropped before the predictor, in training.
    cfg.MODEL.CLASSIFIER.DROPOUT = 0.0
    # Steps of a ConvRNN's loop after which it is read out, from 1; [] takes each one from the
    # image's arrival at IN_FEATURE on. Of other backbones, and with a GRADIENT that sees the last
    # state alone, there is one readout.
    cfg.MODEL.CLASSIFIER.READOUT_STEPS = []
    # The answer from the logits of the readouts: "last", "mean", "sum", "max_confidence" (those of
    # the readout that is surest) or "threshold" (of the first that is as sure as THRESHOLD, or the
    # surest).
    cfg.MODEL.CLASSIFIER.DECODER = "last"
    # Probability, above 0 and at most 1.
    cfg.MODEL.CLASSIFIER.THRESHOLD = 0.9
    # Train on the mean loss of all readouts, and not on that of the decoded logits.
    cfg.MODEL.CLASSIFIER.STEP_LOSS = False
    # Part of a label's weight that is spread over all classes.
    cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.0
    # Parameter of the beta distribution by which pairs of pictures are mixed in training; 0: none.
    cfg.MODEL.CLASSIFIER.MIXUP = 0.0
    # The network of build_torchvision_resnet_backbone: "resnet18", "resnet34", ...
    cfg.MODEL.CLASSIFIER.TORCHVISION = "resnet18"

    # Panoptic datasets of your own, which DATASETS.TRAIN and DATASETS.TEST can then name. Each is
    # {"NAME": ..., "IMAGES": folder of the pictures, "JSON": COCO panoptic JSON, "PNGS": folder of
    # the panoptic PNGs}, and may have "CACHE", the folder for what is derived from them (beside the
    # JSON by default). Paths are relative to the current folder; ~ and $VARIABLES are replaced.
    # The numbers of classes in MODEL follow from the datasets, unless a file or an override says
    # otherwise.
    cfg.DATASETS.PANOPTIC = []

    cfg.RPANOPTIC = CN()
    # Optimizer of the trainer: "sgd" (Detectron2's own, with momentum), "adam" or "adamw". Rate,
    # decay and clipping are those of SOLVER.
    cfg.RPANOPTIC.OPTIMIZER = "sgd"
    # Type of the forward pass in training where SOLVER.AMP.ENABLED: "float16" (with a loss scale;
    # needs a GPU) or "bfloat16".
    cfg.RPANOPTIC.AMP_DTYPE = "float16"
    # Equal parts in which each process runs its share of SOLVER.IMS_PER_BATCH, one after another,
    # for one step of the optimizer: memory falls, schedule and rates stay what they are.
    cfg.RPANOPTIC.ACCUMULATION = 1
    # Pictures of a batch in an evaluation, in each process.
    cfg.RPANOPTIC.TEST_BATCH = 1
    # Latest periodic checkpoints that are kept; 0 or less keeps all.
    cfg.RPANOPTIC.CHECKPOINTS_KEPT = 0
    # The result, the larger the better, by which evaluations during the training are compared
    # (TEST.EVAL_PERIOD above 0): the best model is kept as model_best.pth. With several test sets
    # its name begins with that of a set, as "coco_2017_val_panoptic/panoptic_seg/PQ". "" keeps
    # none.
    cfg.RPANOPTIC.BEST_METRIC = "panoptic_seg/PQ"
    # Seconds that processes wait for each other, at the start and in each exchange of tensors.
    cfg.RPANOPTIC.PROCESS_TIMEOUT = 1800.0
    # Two runs of the same config are equal, bit by bit: a fixed seed, deterministic algorithms. On
    # a GPU, where PyTorch lacks some of these, it warns.
    cfg.RPANOPTIC.DETERMINISTIC = False
    # Decay, a step, of an exponential moving average of the weights: above 0 and below 1. It is
    # what evaluations judge and model_best.pth and model_final.pth hold. 0: none.
    cfg.RPANOPTIC.EMA_DECAY = 0.0
    # Iterations between two lines of the logs.
    cfg.RPANOPTIC.LOG_PERIOD = 20
    # Pictures of the first test set (input, ground truth, prediction) that the trainer draws into
    # OUTPUT_DIR/predictions.png after the last evaluation; 0 draws none.
    cfg.RPANOPTIC.PICTURES = 6

    # Before a training starts, evaluate one picture of each test set, so that what would break the
    # evaluation breaks it now.
    cfg.RPANOPTIC.DRY_RUN = True
    # Keep the panoptic predictions of an evaluation, as PNGs and a COCO panoptic JSON, in
    # OUTPUT_DIR/inference.
    cfg.RPANOPTIC.KEEP_PREDICTIONS = False

    # Pictures with one label. Their channels are in the order of INPUT.FORMAT, their flips those of
    # INPUT.RANDOM_FLIP ("none" or "horizontal").
    cfg.RPANOPTIC.CLASSIFICATION = CN()
    # Side of the squares that the model sees, px.
    cfg.RPANOPTIC.CLASSIFICATION.SIZE = 224
    # Shorter side, px, to which a picture is resized in evaluations before its middle is cut out;
    # 0 takes SIZE.
    cfg.RPANOPTIC.CLASSIFICATION.RESIZE = 256
    # Part of a picture's area, and ratio of width to height, of the random crops in training.
    # SCALE [1.0, 1.0] crops nothing: pictures are resized, and cut, as in evaluations.
    cfg.RPANOPTIC.CLASSIFICATION.SCALE = [0.08, 1.0]
    cfg.RPANOPTIC.CLASSIFICATION.RATIO = [0.75, 1.3333333333333333]
    # Further augmentation in training, by torchvision.transforms.v2: "", "rand_augment",
    # "trivial_augment" or "auto_augment".
    cfg.RPANOPTIC.CLASSIFICATION.AUGMENTATION = ""
    # What is done with a picture that cannot be read: "raise" an error that names it, or "skip" it;
    # skipped ones are named and counted.
    cfg.RPANOPTIC.CLASSIFICATION.UNREADABLE = "raise"


def _ten_layers() -> list[dict[str, object]]:
    """The ten layers of the default ConvRNN, the last seven with a cell."""
    widths = (64, 64, 64, 128, 128, 256, 256, 512, 512, 512)
    layers: list[dict[str, object]] = [
        {"name": f"conv{place}", "channels": width} for place, width in enumerate(widths, start=1)
    ]
    layers[0] |= {"kernel_size": 7, "stride": 2}
    for place in (1, 4, 6, 7, 10):
        layers[place - 1]["pool"] = True
    for layer in layers[3:]:
        layer["cell"] = True
    return layers


def _recurrent_block_defaults() -> CfgNode:
    """The keys that every recurrent block has; the defaults are the paper's C-RBP-20 mask head."""
    from detectron2.config import CfgNode as CN

    block = CN()
    # The recurrent cell, by its name in rpanoptic.recurrent.CELLS.
    block.CELL = "hgru"
    # Side of the cell's spatial kernels, in pixels; odd. 0 takes the cell's own.
    block.KERNEL_SIZE = 0
    # Normalisation inside the cell: "GN" (at most 32 groups), "LN", "IN", "BN" or "" for none;
    # "default" takes the cell's own. "BN", batch statistics at every step, couples the samples of
    # a batch through the recurrence: only for the papers' forms that were trained with it.
    block.NORM = "default"
    # Nonlinearity of the cell: "softplus", "tanh", "relu", "sigmoid" or "elu"; "default" takes
    # the cell's own.
    block.NONLINEARITY = "default"
    # The next four are options of the hGRUs, and one of "conv_lstm" follows. Changing one for a
    # cell that lacks it is an error.
    # Gate the inhibition by global and local attention (GALA) instead of a 1 x 1 convolution.
    block.GALA = True
    # The candidate state is the excitation alone (True, the paper's), or adds it to the inhibited
    # drive (False).
    block.LESS_SOFTPLUS = True
    # A further softplus on the new state.
    block.EXTRA_SOFTPLUS = False
    # Gate biases: "chrono" draws log U(1, STEPS - 1); "legacy" draws U(1, STEPS - 1), as the
    # released code did by mistake and the published numbers were made with.
    block.BIAS_INIT = "chrono"
    # What the bias of the forget gate starts at; 0 in the paper's contour tracing.
    block.FORGET_BIAS = 1.0
    # Steps of the recurrence in training; at least 1.
    block.STEPS = 20
    # Steps at inference; 0 takes STEPS.
    block.STEPS_TEST = 0
    # At inference a sample stops once a step changes its state by at most HALT_TOL, relatively,
    # and costs nothing from then on; STEPS_TEST are then the most steps. 0: all take all steps.
    block.HALT_TOL = 0.0
    # How gradients are found, by name in rpanoptic.recurrent.GRADIENTS: "bptt", "tbptt",
    # "checkpointed_bptt", "cbptt" (bptt and the penalty), "rbp" (at the equilibrium), "crbp" (rbp
    # and the penalty), "cg_rbp" (conjugate gradients), "phantom" (the last step alone).
    block.GRADIENT = "crbp"
    # Last steps that "tbptt", and the fall-back to it, differentiate.
    block.TRUNCATION = 5
    # Of the methods of the equilibrium: "tape" keeps the graph of the last step; "functional"
    # evaluates the step again, compiles as one graph and can be differentiated again.
    block.BACKEND = "tape"
    # Where a sample reaches no equilibrium or its adjoint solve fails: "warn" (once),
    # "raise", "record" (in the logs alone), or "tbptt" to give that sample the gradient of tbptt.
    # For "warn" and "raise" the host waits for a GPU once a pass.
    block.ON_FAILURE = "warn"
    block.FORWARD = CN()
    # A sample is frozen once a step changes its state by at most TOL, relatively; 0: never.
    block.FORWARD.TOL = 0.0
    # "none", or "anderson" for Anderson acceleration of the steps before the last.
    block.FORWARD.ACCELERATION = "none"
    # Vectors that Anderson acceleration mixes.
    block.FORWARD.MEMORY = 5
    # On a GPU, steps between two looks at whether all samples are frozen; each look makes the
    # host wait. 0: never.
    block.FORWARD.CHECK_EVERY = 0
    block.ADJOINT = CN()
    # The solver, by name in rpanoptic.recurrent.SOLVERS: "neumann", "anderson", "gmres",
    # "bicgstab", "cg".
    block.ADJOINT.SOLVER = "neumann"
    # Most vector-Jacobian products for one adjoint solve; 0 gives the one-step gradient.
    block.ADJOINT.MAX_STEPS = 15
    # A sample is solved when its residual (the last term of the series) is below TOL times the
    # incoming gradient.
    block.ADJOINT.TOL = 1.0e-6
    # Vectors that "anderson" mixes, or that "gmres" keeps before it restarts.
    block.ADJOINT.MEMORY = 5
    # Regularisation of "cg"; 0 solves the system itself.
    block.ADJOINT.RIDGE = 0.0
    # Largest norm of the solution, as a multiple of the incoming gradient's, that is believed.
    block.ADJOINT.MAX_GROWTH = 1.0e4
    # As FORWARD.CHECK_EVERY, in products.
    block.ADJOINT.CHECK_EVERY = 0
    block.LIPSCHITZ = CN()
    # Column sums of the state Jacobian are penalised where they exceed TAU.
    block.LIPSCHITZ.TAU = 0.95
    # Factor of the penalty in the loss; 0 computes nothing.
    block.LIPSCHITZ.WEIGHT = 0.001
    # "sum" over everything (the paper's), "mean" over everything, or "per_sample": the sum over a
    # sample's features, averaged over samples, so that its strength ignores their number.
    block.LIPSCHITZ.REDUCTION = "sum"
    # Penalise column sums below -TAU as well.
    block.LIPSCHITZ.TWO_SIDED = False
    return block
