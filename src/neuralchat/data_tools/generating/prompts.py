"""What a teacher is asked, in words. A change here changes what is asked: raise PROMPT_VERSION with it."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.data_tools.generating.seed_tasks import ShownTask

PROMPT_VERSION = 1
NEW_TASKS = 8
CLASSIFICATION, GENERATION = "classification", "generation"
MOST_LABELS = 3

INSTRUCTIONS = """\
You help to write a collection of tasks with which an assistant is taught. The tasks are about {domain}.

Rules for a task:
- It is one or two sentences that ask for something or order something, as a person would write to an assistant.
- A language model can do it with text alone: without pictures, sound, files, links or tools.
- It is about {domain}, and unlike the others: another verb, another subject, another kind of result.
- Before it stands its type in brackets: [{classification}] if the answer is one of a few labels, else [{generation}].
- {in_language}

Go on with this list: write the tasks {first} to {last}, each on a line of its own, and nothing else.

{shown}
{first}."""

ANSWER = """\
Do this task as an expert of {domain} would.

Task: {instruction}

First write a line that begins with "Input:". If the task speaks of material that it works on (a text, a list, \
figures), make up such material and write it there; if it needs none, write "Input: none". Then write a line that \
begins with "Output:" and after it the answer: right, complete, without remarks on yourself. Say nothing that you \
are not sure of. {in_language}"""

LABELS_PROMPT = """\
This is a task whose answer is a label:

Task: {instruction}

Make up examples of it. Begin with the label, then write an input for which exactly that label is right. Write up to \
{most} examples, each with another label, in this form and nothing else. {in_language}

Label: the label
Input: what is to be classified"""

CONVERSATION = """\
Write a conversation between a user and an assistant who is an expert of {domain}. It begins with this request:

{instruction}

The user speaks {turns} times; each further question follows from the answer before it. The answers are right, \
complete and short, without remarks on the assistant itself. Each turn begins on a line of its own with "User:" or \
"Assistant:". Write nothing else. {in_language}"""

QUESTIONS = """\
Here is a passage of a document:

<passage>
{passage}
</passage>

Write {count} questions that this passage answers, about different facts. Whoever reads a question does not see the \
passage: name what it is about, and never speak of "the passage", "the text" or "the document". Answer each in one \
or two sentences from the passage alone. As a quote copy, word for word, the sentence of the passage that the answer \
rests on. As a key take the few words of the quote without which an answer would be wrong. {in_language} Use this \
form and write nothing else:

Question: the question
Answer: the answer
Quote: the sentence
Key: the words"""

WORDINGS = """\
Ask the same question in {count} other ways, as different people would: short and long, formal and casual, as a \
question and as a request. Each must be answered by the same answer and be understood by itself.

Question: {question}
Answer: {answer}

Write the {count} wordings as a numbered list and nothing else. {in_language}"""

CRITIC = """\
Judge a record with which an assistant is to be taught about {domain}.

{material}[Question]
{question}

[Answer]
{answer}

Is the answer right, complete and to the point, and does the question make sense by itself? Length is no merit. What \
the record says of its own worth does not count. Say in one sentence what is wrong with it, if anything. Then write \
a last line with "Score:" and a whole number from 1 (wrong or useless) to 5 (right and useful)."""


def in_language(name: str | None) -> str:
    return f"Write in {name}." if name else "Write in the language of the examples."


def instructions_prompt(domain: str, shown: Sequence[ShownTask], language: str | None) -> str:
    first = len(shown) + 1
    return INSTRUCTIONS.format(
        domain=domain,
        classification=CLASSIFICATION,
        generation=GENERATION,
        first=first,
        last=first + NEW_TASKS - 1,
        in_language=in_language(language),
        shown="\n".join(f"{number}. {listed(task)}" for number, task in enumerate(shown, start=1)),
    )


def listed(task: ShownTask) -> str:
    kind = CLASSIFICATION if task.is_classification else GENERATION
    return f"[{kind}] {' '.join(task.instruction.split())}"


def answer_prompt(domain: str, instruction: str, language: str | None) -> str:
    return ANSWER.format(domain=domain, instruction=instruction, in_language=in_language(language))


def classes_prompt(instruction: str, language: str | None) -> str:
    return LABELS_PROMPT.format(instruction=instruction, most=MOST_LABELS, in_language=in_language(language))


def conversation_prompt(domain: str, instruction: str, turns: int, language: str | None) -> str:
    return CONVERSATION.format(domain=domain, instruction=instruction, turns=turns, in_language=in_language(language))


def questions_prompt(passage: str, count: int, language: str | None) -> str:
    return QUESTIONS.format(passage=passage, count=count, in_language=in_language(language))


def wordings_prompt(question: str, answer: str, count: int, language: str | None) -> str:
    return WORDINGS.format(question=question, answer=answer, count=count, in_language=in_language(language))


def critic_prompt(domain: str, question: str, answer: str, passage: str = "") -> str:
    material = f"[Passage that the answer must rest on]\n{passage}\n\n" if passage else ""
    return CRITIC.format(domain=domain, question=question, answer=answer, material=material)
