"""`neuralchat data preview`: the token rows of training, from the code that training takes them from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import transformers

from neuralchat.checkpointing.select import checkpoint_to_resume
from neuralchat.config.command.parser import parse
from neuralchat.config.config import FinetuneConfig
from neuralchat.console import note, put, show_page
from neuralchat.data_tools.preview.examples import chosen_examples, figures_of, shown_example
from neuralchat.data_tools.preview.page import preview_page
from neuralchat.data_tools.preview.shown import Preview
from neuralchat.data_tools.preview.steps import shown_steps, steps_of_run
from neuralchat.data_tools.preview.terminal import terminal_page
from neuralchat.data_tools.preview.token_text import TokenTexts
from neuralchat.data_tools.preview.words import PROG, split_words
from neuralchat.distributed.local_ranks import wants_local_ranks
from neuralchat.errors import ArgumentsError
from neuralchat.preparation.run_data import RunData, checked_identity, make_run_data
from neuralchat.runs.output_files import page_report, write_reports


def preview_data(words: Sequence[str]) -> int:
    """The exit status. Nothing is trained, no weight is loaded, and only --page is written."""
    options, rest = split_words(words)
    # Nothing is written there.
    arguments = parse(rest, prog=PROG, implied=("--do_train", "--output_dir", "."))
    for text in arguments.notices:
        note(text)
    preview, run = preview_of(options, arguments)
    texts = TokenTexts(run.tokenizer)
    if options.page:
        write_reports([("--page", options.page, lambda: page_report(preview_page(preview, texts)))])
        put(f"page: {options.page}")
    else:
        show_page(terminal_page(preview, texts, with_ids=options.ids))
    return 0


def preview_of(options: argparse.Namespace, arguments: FinetuneConfig) -> tuple[Preview, RunData]:
    transformers.logging.disable_progress_bar()
    weights = arguments.tuning.method.trained_file
    resume = checkpoint_to_resume(arguments.training.resume_from_checkpoint, arguments.output_dir, weights=weights)
    processes = wants_local_ranks(arguments.distributed.num_processes, {})
    run = make_run_data(arguments, resume, world_size=max(1, processes))
    store = run.data.validation if options.held_out else run.data.trained_on
    if store is None:
        raise ArgumentsError("--held_out: no records are held out; --validation_file names some")
    if options.step:
        shown = shown_steps(steps_of_run(run, resume), options.step)
    else:
        if resume is not None or arguments.tuning.from_run is not None:
            checked_identity(run, resume, computes=False)
        shown = [shown_example(store, index) for index in chosen_examples(store, options)]
    title = f"what {'is measured on held-out records' if options.held_out else 'training receives'}: {run.source.name}"
    return Preview(title, figures_of(store, run.data.template.name), shown), run
