"""Tools and calls of them, as people write them -> as chat templates take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuralchat.data.records.values import Fields, Findings, from_json_text, is_absent, json_problem, summary_of

CALL = "an object with 'name' and 'arguments'"


def tools_of(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """The functions that a record's `tools` (or OpenAI's earlier `functions`) describe."""
    name, listed = fields.optional_list(("tools", "functions"), "a list of tools")
    tools = []
    for index, tool in enumerate(listed):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            where = f"field '{name}[{index}]'"
            fields.found.problem(f"{where} must be an object that names a function, found {summary_of(tool)}")
            return ()
        if problem := json_problem(tool, f"{name}[{index}]"):
            fields.found.problem(problem)
            return ()
        # Templates look for the outer form.
        tools.append(tool if function is not tool else {"type": "function", "function": tool})
    return tuple(tools)


def calls_of(value: Any, name: str, found: Findings) -> tuple[Mapping[str, Any], ...]:
    """The calls in a turn: a list, a single one, or the JSON text of either.

    Arguments that are the JSON text of an object become that object: templates write it as JSON again.
    """
    if is_absent(value):
        return ()
    listed = from_json_text(value)
    listed = [listed] if isinstance(listed, dict) else listed
    if not isinstance(listed, list):
        found.problem(f"field '{name}' must be a list of calls, found {summary_of(value)}")
        return ()
    calls = []
    for index, call in enumerate(listed):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            found.problem(f"field '{name}[{index}]' must be {CALL}, found {summary_of(call)}")
            return ()
        arguments = from_json_text(function.get("arguments"))
        arguments = {} if is_absent(arguments) else arguments
        if not isinstance(arguments, dict):
            what = "must be an object, or the JSON text of one"
            found.problem(f"field '{name}[{index}].arguments' {what}, found {summary_of(arguments)}")
            return ()
        if problem := json_problem(call, f"{name}[{index}]"):
            found.problem(problem)
            return ()
        outer = call if function is not call else {}
        kept = {key: inner for key, inner in outer.items() if inner is not None}
        calls.append({**kept, "type": "function", "function": {**function, "arguments": arguments}})
    return tuple(calls)
