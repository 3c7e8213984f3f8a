"""The few ML Metadata 1.17 messages that are needed, built from a table of field numbers.

Field numbers are `ml_metadata/proto/metadata_store*.proto`'s; unknown fields of the real messages pass through.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, struct_pb2

PACKAGE = "ml_metadata"
SERVICE = "ml_metadata.MetadataStoreService"
EXECUTION_STATES = ("UNKNOWN", "NEW", "RUNNING", "COMPLETE", "FAILED", "CACHED", "CANCELED")
ARTIFACT_STATES = (
    "UNKNOWN", "PENDING", "LIVE", "MARKED_FOR_DELETION", "DELETED", "ABANDONED", "REFERENCE",
)  # fmt: skip
EVENT_TYPES = (
    "UNKNOWN", "DECLARED_OUTPUT", "DECLARED_INPUT", "INPUT", "OUTPUT",
    "INTERNAL_INPUT", "INTERNAL_OUTPUT", "PENDING_OUTPUT",
)  # fmt: skip

# message -> "name number type"; * repeated, %map<string,Value>, | member of the oneof
_MESSAGES: dict[str, str] = {
    "Value": "|int_value 1 int64;|double_value 2 double;|string_value 3 string;"
    "|struct_value 4 .google.protobuf.Struct;|proto_value 5 .google.protobuf.Any;|bool_value 6 bool",
    "Context": "id 1 int64;name 3 string;type_id 2 int64;type 6 string;external_id 9 string;"
    "%properties 4;%custom_properties 5;create_time_since_epoch 7 int64;last_update_time_since_epoch 8 int64",
    "Execution": "id 1 int64;name 6 string;type_id 2 int64;type 7 string;external_id 10 string;"
    "last_known_state 3 .ml_metadata.Execution.State;%properties 4;%custom_properties 5;"
    "create_time_since_epoch 8 int64;last_update_time_since_epoch 9 int64",
    "Artifact": "id 1 int64;name 7 string;type_id 2 int64;type 8 string;uri 3 string;external_id 11 string;"
    "%properties 4;%custom_properties 5;state 6 .ml_metadata.Artifact.State;"
    "create_time_since_epoch 9 int64;last_update_time_since_epoch 10 int64",
    "Event": "artifact_id 1 int64;execution_id 2 int64;path 3 .ml_metadata.Event.Path;"
    "type 4 .ml_metadata.Event.Type;milliseconds_since_epoch 5 int64",
    "GetContextByTypeAndNameRequest": "type_name 1 string;type_version 3 string;context_name 2 string",
    "GetContextByTypeAndNameResponse": "context 1 .ml_metadata.Context",
    "ListOperationOptions": "max_result_size 1 int32;next_page_token 3 string",
    "GetExecutionsByContextRequest": "context_id 1 int64;options 2 .ml_metadata.ListOperationOptions",
    "GetExecutionsByContextResponse": "*executions 1 .ml_metadata.Execution;next_page_token 2 string",
    "GetEventsByExecutionIDsRequest": "*execution_ids 1 int64",
    "GetEventsByExecutionIDsResponse": "*events 1 .ml_metadata.Event",
    "GetArtifactsByIDRequest": "*artifact_ids 1 int64;populate_artifact_types 3 bool",
    "GetArtifactsByIDResponse": "*artifacts 1 .ml_metadata.Artifact",
    "GetArtifactsByContextRequest": "context_id 1 int64;options 2 .ml_metadata.ListOperationOptions",
    "GetArtifactsByContextResponse": "*artifacts 1 .ml_metadata.Artifact;next_page_token 2 string",
}
METHODS = (
    "GetContextByTypeAndName", "GetExecutionsByContext", "GetEventsByExecutionIDs",
    "GetArtifactsByID", "GetArtifactsByContext",
)  # fmt: skip

_F = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int64": _F.TYPE_INT64,
    "int32": _F.TYPE_INT32,
    "double": _F.TYPE_DOUBLE,
    "string": _F.TYPE_STRING,
    "bool": _F.TYPE_BOOL,
}
_ENUMS = {"State", "Type"}


def _set_type(field: Any, kind: str) -> None:
    if kind in _TYPES:
        field.type = _TYPES[kind]
        return
    field.type = _F.TYPE_ENUM if kind.rsplit(".", 1)[-1] in _ENUMS else _F.TYPE_MESSAGE
    field.type_name = kind


def _add_map(message: Any, owner: str, name: str, number: int) -> None:
    entry_name = "".join(part.title() for part in name.split("_")) + "Entry"
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    key = entry.field.add(name="key", number=1, label=_F.LABEL_OPTIONAL)
    key.type = _F.TYPE_STRING
    value = entry.field.add(name="value", number=2, label=_F.LABEL_OPTIONAL)
    _set_type(value, f".{PACKAGE}.Value")
    field = message.field.add(name=name, number=number, label=_F.LABEL_REPEATED)
    _set_type(field, f".{PACKAGE}.{owner}.{entry_name}")


def _add_field(message: Any, owner: str, text: str) -> None:
    mark, body = (text[0], text[1:]) if text[0] in "*%|" else ("", text)
    name, number, *kind = body.split()
    if mark == "%":
        _add_map(message, owner, name, int(number))
        return
    label = _F.LABEL_REPEATED if mark == "*" else _F.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    _set_type(field, kind[0])
    if mark == "|":
        field.oneof_index = 0


def _add_enum(message: Any, name: str, values: tuple[str, ...]) -> None:
    enum = message.enum_type.add(name=name)
    for number, value in enumerate(values):
        enum.value.add(name=value, number=number)


def _describe() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="evctl/ml_metadata.proto", package=PACKAGE, syntax="proto2",
        dependency=[struct_pb2.DESCRIPTOR.name, any_pb2.DESCRIPTOR.name],
    )  # fmt: skip
    for owner, fields in _MESSAGES.items():
        message = file.message_type.add(name=owner)
        if "|" in fields:
            message.oneof_decl.add(name="value")
        for text in fields.split(";"):
            _add_field(message, owner, text)
        if owner == "Execution":
            _add_enum(message, "State", EXECUTION_STATES)
        elif owner == "Artifact":
            _add_enum(message, "State", ARTIFACT_STATES)
        elif owner == "Event":
            _add_enum(message, "Type", EVENT_TYPES)
            path = message.nested_type.add(name="Path")
            _add_field(path, "Event.Path", "*steps 1 .ml_metadata.Event.Path.Step")
            step = path.nested_type.add(name="Step")
            step.oneof_decl.add(name="value")
            for text in ("|index 1 int64", "|key 2 string"):
                _add_field(step, "Event.Path.Step", text)
    return file


_POOL = descriptor_pool.DescriptorPool()
for _module in (struct_pb2, any_pb2):
    _POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
_POOL.AddSerializedFile(_describe().SerializeToString())


def message(name: str) -> Any:
    """Return the class of an ML Metadata message (`Execution`, `GetArtifactsByIDRequest`, ...)."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
