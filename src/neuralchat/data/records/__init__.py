"""Raw rows -> records: recognised by their fields, checked, all problems told together."""

from neuralchat.data.records.columns import Columns
from neuralchat.data.records.kinds import RECORD_KINDS, TEXT, RecordKind, facts_from, is_conversation
from neuralchat.data.records.reading import kind_of_rows, read_records, records_of_rows
from neuralchat.data.records.record import Fact, Record, Role, Turn
from neuralchat.data.records.report import RecordReport

__all__ = [
    "RECORD_KINDS",
    "TEXT",
    "Columns",
    "Fact",
    "Record",
    "RecordKind",
    "RecordReport",
    "Role",
    "Turn",
    "facts_from",
    "is_conversation",
    "kind_of_rows",
    "read_records",
    "records_of_rows",
]
