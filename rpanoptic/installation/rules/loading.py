"""Mends of data loading and of how modules are found."""

from __future__ import annotations

from rpanoptic.installation.mend import Edit, Need, Rule

RULES = (
    Rule(
        name="loader-seed",
        need=Need.SHOULD,
        file="data/build.py",
        why="A seed given to the training loader reaches its sampler and its workers.",
        edits=(
            Edit(
                'collate_fn=None,\n):\n    """\n    Build a batched',
                'collate_fn=None,\n    seed=None,\n):\n    """\n    Build a batched',
            ),
            Edit(
                "ratio_grouping, num_workers, collate_fn: see\n",
                "ratio_grouping, num_workers, collate_fn, seed: see\n",
            ),
            Edit(
                "        dataset = ToIterableDataset(dataset, sampler)\n\n    if aspect",
                """        dataset = ToIterableDataset(dataset, sampler)

    generator = None if seed is None else torch.Generator().manual_seed(seed)

    if aspect""",
            ),
            Edit(
                """            worker_init_fn=worker_init_reset_seed,
        )  # yield individual mapped dict
""",
                """            worker_init_fn=worker_init_reset_seed,
            generator=generator,
        )  # yield individual mapped dict
""",
            ),
            Edit(
                """            worker_init_fn=worker_init_reset_seed,
        )


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None):
""",
                """            worker_init_fn=worker_init_reset_seed,
            generator=generator,
        )


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None, seed=None):
""",
            ),
            Edit(
                "            sampler = TrainingSampler(len(dataset))\n        elif",
                "            sampler = TrainingSampler(len(dataset), seed=seed)\n        elif",
            ),
            Edit(
                "            sampler = RepeatFactorTrainingSampler(repeat_factors)\n",
                "            sampler = RepeatFactorTrainingSampler(repeat_factors, seed=seed)\n",
            ),
            Edit(
                "            sampler = RandomSubsetTrainingSampler(len(dataset), "
                "cfg.DATALOADER.RANDOM_SUBSET_RATIO)\n",
                """            sampler = RandomSubsetTrainingSampler(
                len(dataset),
                cfg.DATALOADER.RANDOM_SUBSET_RATIO,
                seed_shuffle=seed,
                seed_subset=seed,
            )
""",
            ),
            Edit(
                """        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
""",
                """        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "seed": seed,
    }


@configurable(from_config=_train_loader_from_config)
""",
            ),
            Edit(
                '    num_workers=0,\n    collate_fn=None,\n):\n    """\n    Build a dataloader for',
                '    num_workers=0,\n    collate_fn=None,\n    seed=None,\n):\n    """\n'
                "    Build a dataloader for",
            ),
            Edit(
                "            it's more efficient to collate them in data loader.\n\n    Returns:",
                """            it's more efficient to collate them in data loader.
        seed (int or None): seeds the default sampler and the loader's workers. It must be the
            same in all processes. By default both follow the global random state.

    Returns:""",
            ),
            Edit(
                "            sampler = TrainingSampler(len(dataset))\n        assert",
                "            sampler = TrainingSampler(len(dataset), seed=seed)\n        assert",
            ),
            Edit(
                "        collate_fn=collate_fn,\n    )\n\n\ndef _test",
                "        collate_fn=collate_fn,\n        seed=seed,\n    )\n\n\ndef _test",
            ),
        ),
        upstream="3ff5dd1cff44",
    ),
    Rule(
        name="projects-importlib",
        need=Need.SHOULD,
        file="projects/__init__.py",
        why="A bare import of importlib does not bring importlib.abc and importlib.util along.",
        edits=(
            Edit(
                "import importlib\nfrom pathlib",
                "import importlib.abc\nimport importlib.util\nfrom pathlib",
            ),
        ),
        upstream="2a68c056ad56",
    ),
    Rule(
        name="lazy-config-importlib",
        need=Need.SHOULD,
        file="config/lazy.py",
        why="A bare import of importlib does not bring its submodules along.",
        edits=(
            Edit(
                "import importlib\nimport inspect",
                "import importlib.machinery\nimport importlib.util\nimport inspect",
            ),
        ),
    ),
    Rule(
        name="collect-env-importlib",
        need=Need.SHOULD,
        file="utils/collect_env.py",
        why="A bare import of importlib does not bring importlib.util along.",
        edits=(Edit("import importlib\nimport numpy", "import importlib.util\nimport numpy"),),
    ),
)
