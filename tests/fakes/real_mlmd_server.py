"""The real ML Metadata 1.17 over gRPC: its own store behind its own service, filled from recordings.

Run by a Python that has `real_mlmd.txt` installed, which cannot share ours (its protobuf is older):

    python real_mlmd_server.py RECORDED_RUNS_FOLDER

Prints its port, then serves until its stdin is closed. Every call is handed on as bytes, so the answers are the store's.
"""

import json
import sys
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import json_format
from ml_metadata.metadata_store import metadata_store
from ml_metadata.metadata_store.pywrap.metadata_store_extension import metadata_store as serialized
from ml_metadata.proto import metadata_store_pb2 as pb
from ml_metadata.proto import metadata_store_service_pb2 as service

SERVICE = "ml_metadata.MetadataStoreService"
CODES = {code.value[0]: code for code in grpc.StatusCode}


def fill(store: metadata_store.MetadataStore, name: str, answers: dict) -> None:
    """Put a recorded run into the store as the run `name`; ids and times become the store's own."""

    def parse(method: str):
        known = getattr(service, f"{method}Response")()
        return json_format.ParseDict(answers.get(method, {}), known, ignore_unknown_fields=True)

    def fresh(node, put_type, kind):
        node.ClearField("id")
        node.type_id = put_type(kind(name=node.type))
        for field in ("create_time_since_epoch", "last_update_time_since_epoch"):
            node.ClearField(field)
        return node

    context = fresh(parse("GetContextByTypeAndName").context, store.put_context_type, pb.ContextType)
    context.name = name
    (context_id,) = store.put_contexts([context])
    executions, artifacts = {}, {}
    for each in sorted(parse("GetExecutionsByContext").executions, key=lambda e: e.id):
        old = each.id
        parent = each.custom_properties["parent_dag_id"].int_value
        if parent:
            each.custom_properties["parent_dag_id"].int_value = executions.get(parent, parent)
        else:
            each.custom_properties.pop("parent_dag_id", None)
        each.ClearField("name")
        (executions[old],) = store.put_executions([fresh(each, store.put_execution_type, pb.ExecutionType)])
    for each in parse("GetArtifactsByID").artifacts:
        old = each.id
        (artifacts[old],) = store.put_artifacts([fresh(each, store.put_artifact_type, pb.ArtifactType)])
    events = [e for e in parse("GetEventsByExecutionIDs").events if e.artifact_id in artifacts]
    for each in events:
        each.artifact_id, each.execution_id = artifacts[each.artifact_id], executions[each.execution_id]
    if events:
        store.put_events(events)
    store.put_attributions_and_associations(
        [], [pb.Association(context_id=context_id, execution_id=each) for each in executions.values()]
    )


def handler(store: metadata_store.MetadataStore) -> grpc.GenericRpcHandler:
    """Return a handler that gives each call to the store as it came."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, call):
            method = getattr(serialized, call.method.rpartition("/")[2], None)
            if method is None or not call.method.startswith(f"/{SERVICE}/"):
                return None

            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                reply, message, status = method(store._metadata_store, request)
                if status:
                    context.abort(CODES[status], message.decode())
                return reply

            return grpc.unary_unary_rpc_method_handler(answer)

    return Handler()


def main() -> None:
    """Serve the runs of a folder."""
    config = pb.ConnectionConfig()
    config.fake_database.SetInParent()
    store = metadata_store.MetadataStore(config)
    for recorded in sorted(Path(sys.argv[1]).glob("*/mlmd.json")):
        # some runs were recorded in two of their lives: the situation's name tells them apart
        fill(store, recorded.parent.name, json.loads(recorded.read_text()))
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler(store)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
