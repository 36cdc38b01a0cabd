"""Random protobuf messages of any type, by descriptor: rubbish that a caller's library would let through."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

# Words that get past the first check and into the parsers behind it.
TELLING = (
    "", "themes/1", "themes/0", "themes/99999999999999999999", "mobile", "crm_id", "openid", "push", "app", "purchase_intent",
    "13800138000", "age > 30", "job = 'student' AND", "nosuchtag = 1", "ANY(vehicle, mileage_km > 60000)", "((((((((((1=1",
    "age = 'x'", "1/0 > 1", "'; DROP TABLE theme; --", "\x00", "é\u202e", "AAAA", "offer_answer IS NULL", "a" * 5000,
)  # fmt: skip
INTS = {FieldDescriptor.TYPE_INT32: 31, FieldDescriptor.TYPE_INT64: 63, FieldDescriptor.TYPE_SINT32: 31}


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field, edge values first."""
    if field.type in INTS:
        bound = 2 ** INTS[field.type]
        return st.one_of(st.integers(0, 5), st.integers(-bound, bound - 1))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats())
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.sampled_from([*(v.number for v in field.enum_type.values), 99])
    if field.type == FieldDescriptor.TYPE_STRING:
        # Surrogates cannot be encoded at all; the caller's library refuses them.
        return st.one_of(st.sampled_from(TELLING), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    if field.message_type is not None:
        return messages(field.message_type)
    raise NotImplementedError(field.type)


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type, each field present or not."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            fields[field.name] = st.dictionaries(scalars(entry["key"]), scalars(entry["value"]), max_size=3)
        elif field.is_repeated:
            fields[field.name] = st.lists(scalars(field), max_size=4)
        else:
            fields[field.name] = scalars(field)
    made = message_factory.GetMessageClass(descriptor)
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: made(**values))
