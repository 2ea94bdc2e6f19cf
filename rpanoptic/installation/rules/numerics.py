"""Mends for names and behaviour that NumPy, Python and PyTorch dropped."""

from __future__ import annotations

from rpanoptic.installation.mend import Edit, Need, Rule

RULES = (
    Rule(
        name="np-int-class-histogram",
        need=Need.MUST,
        file="data/build.py",
        why="NumPy 1.24 dropped np.int: printing the class histogram crashed.",
        edits=(
            Edit("np.zeros((num_classes,), dtype=np.int)", "np.zeros((num_classes,), dtype=int)"),
            Edit(
                'not x.get("iscrowd", 0)], dtype=np.int\n', 'not x.get("iscrowd", 0)], dtype=int\n'
            ),
        ),
        upstream="027099d37a24",
    ),
    Rule(
        name="np-int-float-sem-seg",
        need=Need.MUST,
        file="evaluation/sem_seg_evaluation.py",
        why="NumPy 1.24 dropped np.int and np.float: the semantic evaluation crashed.",
        edits=(
            Edit("np.array(output, dtype=np.int)", "np.array(output, dtype=int)"),
            Edit("np.array(Image.open(f), dtype=np.int)", "np.array(Image.open(f), dtype=int)"),
            Edit("np.nan, dtype=np.float)", "np.nan, dtype=float)", count=2),
            Edit("[:-1].astype(np.float)", "[:-1].astype(float)"),
            Edit("axis=0).astype(np.float)", "axis=0).astype(float)"),
            Edit("axis=1).astype(np.float)", "axis=1).astype(float)"),
        ),
        upstream="027099d37a24, 54dd614e9af6",
    ),
    Rule(
        name="sample-from-list",
        need=Need.MUST,
        file="data/common.py",
        why="Python 3.11 refuses random.sample of a set: a mapper that skips a picture crashed.",
        edits=(
            Edit(
                "self._rng.sample(self._fallback_candidates, k=1)[0]",
                "self._rng.choice(list(self._fallback_candidates))",
            ),
        ),
        upstream="400a49c1ec11",
    ),
    Rule(
        name="np-bool-masks",
        need=Need.SHOULD,
        file="structures/masks.py",
        why="NumPy 1.24 to 1.26 have no np.bool: polygon masks crashed.",
        edits=(
            Edit("width)).astype(np.bool)", "width)).astype(bool)"),
            Edit("mask_util.decode(rle).astype(np.bool)", "mask_util.decode(rle).astype(bool)"),
            Edit("np.asarray(keep, dtype=np.bool)", "np.asarray(keep, dtype=bool)"),
        ),
        upstream="857d5de21a77",
    ),
    Rule(
        name="np-bool-visualizer",
        need=Need.SHOULD,
        file="utils/visualizer.py",
        why="NumPy 1.24 to 1.26 have no np.bool: drawing a panoptic picture crashed.",
        edits=(Edit(").numpy().astype(np.bool)", ").numpy().astype(bool)", count=3),),
        upstream="857d5de21a77",
    ),
    Rule(
        name="np-bool-video-visualizer",
        need=Need.SHOULD,
        file="utils/video_visualizer.py",
        why="NumPy 1.24 to 1.26 have no np.bool: drawing a video crashed.",
        edits=(Edit("(len(instances),), dtype=np.bool)", "(len(instances),), dtype=bool)"),),
        upstream="857d5de21a77",
    ),
    Rule(
        name="np-bool-pascal-voc",
        need=Need.SHOULD,
        file="evaluation/pascal_voc_evaluation.py",
        why="NumPy 1.24 to 1.26 have no np.bool: the Pascal VOC evaluation crashed.",
        edits=(
            Edit(
                '["difficult"] for x in R]).astype(np.bool)',
                '["difficult"] for x in R]).astype(bool)',
            ),
            Edit("[False for x in R]).astype(np.bool)", "[False for x in R]).astype(bool)"),
        ),
        upstream="857d5de21a77",
    ),
    Rule(
        name="np-str-pascal-voc",
        need=Need.SHOULD,
        file="data/datasets/pascal_voc.py",
        why="NumPy 1.24 dropped np.str: reading a Pascal VOC set crashed.",
        edits=(Edit("np.loadtxt(f, dtype=np.str)", "np.loadtxt(f, dtype=str)"),),
        upstream="654570a2f1e7",
    ),
    Rule(
        name="mask-paste-asarray",
        need=Need.SHOULD,
        file="layers/mask_ops.py",
        why="NumPy 2 raises where copy=False needs a copy; asarray copies only when it must.",
        edits=(Edit("mask = np.array(mask, copy=False)", "mask = np.asarray(mask)"),),
        upstream="70f454304e1a",
    ),
    Rule(
        name="image-list-floor",
        need=Need.SHOULD,
        file="structures/image_list.py",
        why="The padded size is rounded down explicitly, as PyTorch changed // on tensors.",
        edits=(
            Edit(
                "max_size = (max_size + (stride - 1)) // stride * stride",
                "max_size = "
                'torch.div(max_size + stride - 1, stride, rounding_mode="floor") * stride',
            ),
        ),
        upstream="bb52414fbaa6",
    ),
    Rule(
        name="clip-colours",
        need=Need.SHOULD,
        file="utils/visualizer.py",
        why="Rounding can leave a colour slightly outside 0..1, which matplotlib refuses.",
        edits=(
            Edit(
                "        return modified_color\n",
                "        return tuple(min(max(c, 0.0), 1.0) for c in modified_color)\n",
            ),
        ),
        upstream="b8ef03928150",
    ),
    Rule(
        name="common-prefix",
        need=Need.SHOULD,
        file="checkpoint/c2_model_loading.py",
        why="Names that differ in the middle were logged under a prefix that they do not share.",
        edits=(
            Edit("import logging\nimport re\n", "import logging\nimport os\nimport re\n"),
            Edit(
                """    names = [n.split(".") for n in names]
    m1, m2 = min(names), max(names)
    ret = [a for a, b in zip(m1, m2) if a == b]
    ret = ".".join(ret) + "." if len(ret) else ""
    return ret
""",
                """    shared = os.path.commonprefix([n.split(".") for n in names])
    return ".".join(shared) + "." if shared else ""
""",
            ),
            Edit(
                """    m1, m2 = min(names), max(names)
    lcp = [a for a, b in zip(m1, m2) if a == b]
    lcp = "".join(lcp)
    return lcp
""",
                """    return os.path.commonprefix(names)
""",
            ),
        ),
        upstream="17e95486fdfe",
    ),
)
