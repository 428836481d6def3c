"""The first hour of somebody who tries ProServe in a cluster, in its order: each test goes on where one ended."""

import json

import grpc
import pytest
from openai import AuthenticationError, OpenAI

from installation import Installation
from proserve_gateway.rpc import inference_pb2
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub

PRODUCT = "sk-demo-product"


def client(installation: Installation, key: str = PRODUCT) -> OpenAI:
    return OpenAI(base_url=f"{installation.http}/v1", api_key=key, max_retries=0)


def served(installation: Installation) -> bool:
    """Whether a request gets its answer now."""
    answer = client(installation).completions.create(model="tiny", max_tokens=4, prompt="Hello")
    return answer.usage is not None and answer.usage.completion_tokens == 4


def test_first_request_is_answered(installation: Installation) -> None:
    answer = client(installation).chat.completions.create(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_grpc_request_is_answered(installation: Installation) -> None:
    request = inference_pb2.GenerateRequest(model="tiny", prompt="Hello", sampling=inference_pb2.Sampling(max_tokens=8))
    with grpc.insecure_channel(installation.grpc) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        reply = stub.Generate(request, metadata=[("authorization", f"Bearer {PRODUCT}")], timeout=120)
    assert reply.usage.output_tokens == 8
    assert reply.served.priority_class == "interactive"


def test_wrong_key_is_refused(installation: Installation) -> None:
    with pytest.raises(AuthenticationError):
        client(installation, "sk-wrong").models.list()


def test_helm_test_sends_a_request(installation: Installation) -> None:
    refused = installation.helm_test("sk-wrong")
    assert refused.returncode != 0
    assert "invalid_api_key" in refused.stdout + refused.stderr
    answered = installation.helm_test(PRODUCT)
    assert answered.returncode == 0, answered.stdout + answered.stderr
    assert '"completion_tokens":8' in answered.stdout.replace(" ", "")


def test_columns_say_how_things_stand(installation: Installation) -> None:
    pools = installation.cluster.kubectl("get", "enginepools").splitlines()
    assert pools[0].split()[0] == "NAME"
    assert "tiny" in pools[1]
    assert "True" in pools[1]
    shown = installation.cluster.kubectl("get", "proserve", "--all-namespaces")
    for name in (
        "priorityclass.proserve.dev/interactive",
        "tenant.proserve.dev/product",
        "enginepool.proserve.dev/tiny",
    ):
        assert name in shown


def test_replicas_follow_kubectl_scale(installation: Installation) -> None:
    installation.cluster.kubectl("scale", "enginepool/tiny", "--replicas=3")
    installation.wait_pods("tiny", 3)
    installation.cluster.kubectl("scale", "enginepool/tiny", "--replicas=2")
    installation.wait_pods("tiny", 2)
    assert served(installation)


def test_nonsense_is_refused_or_left_out_and_service_goes_on(installation: Installation) -> None:
    node = installation.cluster
    refused = node.run("kubectl", "patch", "enginepool", "tiny", "--type=merge", "-p", '{"spec": {"replicas": -1}}')
    assert refused.returncode != 0
    assert "spec.replicas" in refused.stderr
    # What a schema cannot know: there is no such class. The tenant keeps its last right version.
    node.kubectl("patch", "tenant", "product", "--type=merge", "-p", '{"spec": {"priorityClassName": "interactiv"}}')
    node.kubectl("wait", "--for=condition=Accepted=False", "tenant/product", "--timeout=300s")
    assert served(installation)
    node.kubectl("patch", "tenant", "product", "--type=merge", "-p", '{"spec": {"priorityClassName": "interactive"}}')
    node.kubectl("wait", "--for=condition=Accepted", "tenant/product", "--timeout=300s")


def test_pool_whose_engines_cannot_start_says_so_and_hinders_nobody(installation: Installation) -> None:
    cluster = installation.cluster

    def broken(**engine: str) -> str:
        spec = {
            "model": {"name": "broken", "uri": "generated://tiny"},
            "engine": {"runtime": "Emulated", **engine},
            "pod": {"imagePullPolicy": "IfNotPresent"},
        }
        metadata = {"name": "broken", "namespace": "default"}
        pool = {"apiVersion": "proserve.dev/v1alpha1", "kind": "EnginePool", "metadata": metadata, "spec": spec}
        return json.dumps(pool)

    def waiting() -> set[str]:
        pods = cluster.get("pods", "-l", "proserve.dev/pool=broken")["items"]
        states = [each["state"] for pod in pods for each in pod["status"].get("containerStatuses", ())]
        return {state["waiting"]["reason"] for state in states if "waiting" in state}

    cluster.kubectl("apply", "-f", "-", stdin=broken(image="localhost:1/no-such-image:1"))
    try:
        # What the reason's line in docs/operator.md says: where the pool says little, its pods say what is wrong.
        cluster.wait_for(
            lambda: bool(waiting() & {"ErrImagePull", "ImagePullBackOff"}), limit_s=300, what="pod without an image"
        )
        (ready,) = [
            each for each in cluster.get("enginepool", "broken")["status"]["conditions"] if each["type"] == "Ready"
        ]
        assert (ready["status"], ready["reason"]) == ("False", "EnginesStarting")
        assert "0 of 1 engines are ready" in ready["message"]
        assert served(installation)
        cluster.kubectl("apply", "-f", "-", stdin=broken())
        installation.wait_ready("broken")
    finally:
        cluster.kubectl("delete", "enginepool", "broken")


def test_new_key_works_and_one_deleted_from_its_secret_does_not(installation: Installation) -> None:
    node = installation.cluster

    def works() -> bool:
        try:
            client(installation, "sk-second").models.list()
        except AuthenticationError:
            return False
        return True

    keys = '{"spec": {"apiKeys": [%s{"secretKeyRef": {"name": "tenant-keys", "key": "product"}}]}}'
    node.kubectl("patch", "secret", "tenant-keys", "-p", '{"stringData": {"second": "sk-second"}}')
    second = '{"secretKeyRef": {"name": "tenant-keys", "key": "second"}}, '
    node.kubectl("patch", "tenant", "product", "--type=merge", "-p", keys % second)
    node.wait_for(works, limit_s=300, what="answer to the new key")
    node.kubectl("patch", "secret", "tenant-keys", "-p", '{"data": {"second": null}}')
    node.wait_for(lambda: not works(), limit_s=300, what="refusal of the deleted key")
    # The tenant's other key is not touched, and the operator is told.
    assert served(installation)
    node.kubectl("wait", "--for=condition=KeysResolved=False", "tenant/product", "--timeout=300s")
    node.kubectl("patch", "tenant", "product", "--type=merge", "-p", keys % "")
    node.kubectl("wait", "--for=condition=KeysResolved", "tenant/product", "--timeout=300s")


def test_pool_can_turn_to_endpoints(installation: Installation) -> None:
    cluster = installation.cluster

    def moved(**spec: object) -> str:
        spec["model"] = {"name": "moved", **({} if "endpoints" in spec else {"uri": "generated://tiny"})}
        metadata = {"name": "moved", "namespace": "default"}
        return json.dumps(
            {"apiVersion": "proserve.dev/v1alpha1", "kind": "EnginePool", "metadata": metadata, "spec": spec}
        )

    def made() -> list[str]:
        kinds = "deployments,services,poddisruptionbudgets,networkpolicies"
        return cluster.kubectl("get", kinds, "-l", "proserve.dev/pool=moved", "-o", "name").split()

    cluster.kubectl("apply", "-f", "-", stdin=moved(replicas=0, engine={"runtime": "Emulated"}))
    cluster.wait_for(lambda: len(made()) == 4, limit_s=300, what="objects of the pool")
    cluster.kubectl("apply", "-f", "-", stdin=moved(endpoints=[{"url": "http://elsewhere.example.com:8000"}]))
    cluster.wait_for(lambda: made() == [], limit_s=300, what="end of the pool's objects")
    cluster.kubectl("delete", "enginepool", "moved")
