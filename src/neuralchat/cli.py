"""The `neuralchat` command: verbs and their flags. Work is imported when a verb runs, so help is instant."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from neuralchat import __version__
from neuralchat.config.command.flag_parser import FlagParser, RaisingParser, verb_of
from neuralchat.console import put, report, show_log, show_page
from neuralchat.console.output import OutputLostError, fill_closed_streams, sturdy_streams
from neuralchat.data_tools.verbs import DATA_VERBS
from neuralchat.errors import (
    EXIT_INTERRUPTED,
    EXIT_OUT_OF_MEMORY,
    NeuralChatError,
    ended_by_signals,
    is_out_of_memory,
    is_panic,
    system_error_in,
    system_error_line,
)
from neuralchat.models.quiet import leave_out_warnings
from neuralchat.secrets import hide_in_error, remember_environment
from neuralchat.verbs import FLAGS_OF_VERB, VERBS

DESCRIPTION = "Turn a language model into a chatbot on the servers you already have."
TOP_FLAGS = ("-h", "--help", "--version")


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. A user's mistake is printed without a traceback."""
    words = list(sys.argv[1:] if words is None else words)
    # The run directory is the work of fine-tuning; what is printed on the way may be lost.
    return guarded(lambda: run_verb(words), output_is_work=words[:1] != ["finetune"])


def run_verb(words: Sequence[str]) -> int:
    if verb_of(words, list(VERBS), TOP_FLAGS) == "finetune":
        return run_finetune(words[1:], prog="neuralchat finetune", implied=("--do_train",))
    if list(words[:2]) == ["data", "preview"] and not {"-h", "--help"} & set(words):
        return run_preview(words[2:])
    options = make_parser().parse_args(words)
    return options.work(options)


def run_script(prog: str) -> int:
    """What finetune_clm.py is: the same fine-tuning, with the flags of the original."""
    return guarded(lambda: run_finetune(sys.argv[1:], prog=prog, implied=()), output_is_work=False)


def guarded(work: Callable[[], int], *, output_is_work: bool = True) -> int:
    """The exit status of `work`, or that of its error, which is told. `output_is_work`: see sturdy_streams."""
    fill_closed_streams()
    quiet_environment()
    show_log()
    remember_environment(os.environ)
    with sturdy_streams(output_is_work=output_is_work):
        try:
            look_at_surroundings()
            return written_out(work)
        except OutputLostError as error:
            if error.is_reader_gone:
                return 0
            report(error)
            return error.exit_status
        except NeuralChatError as error:
            report(error)
            return error.exit_status
        except KeyboardInterrupt:
            put("\ninterrupted", sys.stderr)
            return EXIT_INTERRUPTED
        except BaseException as error:
            if (refused := system_error_in(error)) is not None:
                # Disks, permissions and networks fail anywhere; what can be done about it lies with the user.
                report(refusal_told(refused))
                return NeuralChatError.exit_status
            if is_out_of_memory(error):
                report(NeuralChatError(f"memory ran out: {str(error) or type(error).__name__}"))
                return EXIT_OUT_OF_MEMORY
            if not is_panic(error):
                hide_in_error(error)
                raise
            report(NeuralChatError(f"a library gave up: {error}. Is the model or its tokenizer damaged?"))
            return NeuralChatError.exit_status


def written_out(work: Callable[[], int]) -> int:
    """The exit status of `work`, when all that it printed has left this process."""
    try:
        status = work()
    except SystemExit:
        # After --help.
        flush_output()
        raise
    flush_output()
    return status


def flush_output() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def look_at_surroundings() -> None:
    """Raise NeuralChatError where nothing can work: libraries end the process with riddles."""
    try:
        os.getcwd()
    except OSError as error:
        raise NeuralChatError(
            f"the working directory cannot be used ({error.strerror}): it was deleted or replaced; cd to another"
        ) from error
    look_at_threads()


def look_at_threads() -> None:
    """Raise NeuralChatError where too few threads can be started: libraries end as Ctrl-C does then, or panic."""
    is_over = threading.Event()
    # A thread per core each for numpy, tokenizers and torch. Where there are many cores, variables can give them fewer.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = 3 * min(cores, 16)
    threads = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(number)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise NeuralChatError(
            f"no {number} threads can be started: this user's processes and threads are as many as are allowed; "
            "raise the limit (ulimit -u, or the pids of a container), or end other processes"
        ) from error
    finally:
        is_over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def refusal_told(refused: OSError) -> NeuralChatError:
    """What the system refused; where that was to say where we are, that the directory went away meanwhile."""
    if refused.errno == errno.ENOENT and refused.filename is None:
        try:
            look_at_surroundings()
        except NeuralChatError as error:
            return error
    return NeuralChatError(system_error_line(refused))


def quiet_environment() -> None:
    """Progress bars and advice of the libraries would hide our own lines; users may set these themselves."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Some bars, as that of reading GGUF weights, heed no setting of transformers.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Where a library in Rust gives up, its frames tell a user nothing.
    os.environ.setdefault("RUST_BACKTRACE", "0")
    # Deprecations inside the libraries are ours to follow, not the user's.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    leave_out_warnings()


@contextmanager
def nothing_collected() -> Iterator[None]:
    """For imports, which make a million objects that stay: looking for garbage among them takes a fifth of the time.

    Neither is it looked for among them afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def run_finetune(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    if any(word in ("-h", "--help") for word in words):
        from neuralchat.config.command.help import help_text

        put(help_text(prog), end="")
        return 0
    with nothing_collected():
        from neuralchat.training.finetune import finetune_command

    return finetune_command(words, prog=prog, implied=implied)


def run_chat(options: argparse.Namespace) -> int:
    with nothing_collected():
        from neuralchat.inference.terminal.command import chat

    return chat(options)


def run_serve(options: argparse.Namespace) -> int:
    with nothing_collected():
        from neuralchat.inference.server.serving import serve

    return serve(options)


def run_eval(options: argparse.Namespace) -> int:
    with nothing_collected():
        from neuralchat.evaluation.evaluate import evaluate

    return evaluate(options)


def run_merge(options: argparse.Namespace) -> int:
    with nothing_collected():
        from neuralchat.export.merge import merge

    return merge(options)


def run_export(options: argparse.Namespace) -> int:
    from neuralchat.export.command import export

    return export(options)


def run_data(options: argparse.Namespace) -> int:
    module, _, function = DATA_VERBS[options.data_verb].work.partition(":")
    with ended_by_signals():
        return int(getattr(importlib.import_module(module), function)(options))


def run_preview(words: Sequence[str]) -> int:
    """It takes the flags of finetune too, so it reads its words by itself."""
    with nothing_collected():
        from neuralchat.data_tools.preview.command import preview_data

    with ended_by_signals():
        return preview_data(words)


def run_show(options: argparse.Namespace) -> int:
    from neuralchat.library.run import Run

    show_page(Run.load(options.run).page())
    return 0


def run_plan(options: argparse.Namespace) -> int:
    if options.model or options.model_name_or_path or options.model_parameters or options.model_config:
        from neuralchat.planning.model_plan import plan_model

        return plan_model(options)
    from neuralchat.distributed.cluster_plan import plan_hardware

    return plan_hardware(options)


def run_fetch(options: argparse.Namespace) -> int:
    from neuralchat.models.loading.fetch import fetch

    fetch(options.model)
    return 0


def run_cache(options: argparse.Namespace) -> int:
    from neuralchat.console.cache_page import cleared, listing

    show_page(listing() if options.action == "list" else cleared(options.kinds))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = RaisingParser(prog="neuralchat", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"neuralchat {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=FlagParser)
    verbs.add_parser("finetune", help=VERBS["finetune"], add_help=False)
    for verb, add_flags in FLAGS_OF_VERB.items():
        flags = verbs.add_parser(verb, help=VERBS[verb], description=VERBS[verb])
        add_flags(flags)
        flags.set_defaults(work=WORK_OF_VERB[verb])
    return parser


WORK_OF_VERB = {
    "chat": run_chat,
    "serve": run_serve,
    "eval": run_eval,
    "merge": run_merge,
    "export": run_export,
    "data": run_data,
    "show": run_show,
    "plan": run_plan,
    "fetch": run_fetch,
    "cache": run_cache,
}

if __name__ == "__main__":
    sys.exit(main())
