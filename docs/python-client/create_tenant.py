"""Creates a tenant and watches its operation: python create_tenant.py CONTEXT.toml NAME

CONTEXT.toml is a context file as isyctl uses it. Not here: retries and options; isyctl has them.
"""
import sys
import tomllib
import uuid

import grpc

from isyone.v1 import operation_pb2, operation_pb2_grpc, tenant_pb2, tenant_pb2_grpc


def connect(path):
    """A channel with the context's client certificate. The coordinator has one name, whatever its address is."""
    with open(path, "rb") as file:
        context = tomllib.load(file)
    pem = [context[name].encode() for name in ("ca_pem", "key_pem", "certificate_pem")]
    options = [("grpc.ssl_target_name_override", "coordinator.isyone.internal")]
    return grpc.secure_channel(context["endpoint"], grpc.ssl_channel_credentials(*pem), options)


def main(path, name):
    with connect(path) as channel:
        tenants = tenant_pb2_grpc.TenantServiceStub(channel)
        request = tenant_pb2.CreateTenantRequest(name=name, request_id=str(uuid.uuid4()))
        operation = tenants.CreateTenant(request, timeout=30).operation
        print(f"operation {operation.id}: {name} goes to {operation.host}", flush=True)
        watch = operation_pb2.WatchOperationRequest(id=operation.id)
        for operation in operation_pb2_grpc.OperationServiceStub(channel).WatchOperation(watch):
            ended = sum(step.HasField("end_time") for step in operation.steps)
            print(f"{ended} of {len(operation.steps)} steps {operation.error}", flush=True)
        if operation.state != operation_pb2.OPERATION_STATE_SUCCEEDED:
            sys.exit(f"{name} failed: {operation.error}")
        found = tenants.GetCredentials(tenant_pb2.GetCredentialsRequest(name=name), timeout=30)
        print(f"{found.url} {found.login} {found.password}")


if __name__ == "__main__":
    main(*sys.argv[1:])
