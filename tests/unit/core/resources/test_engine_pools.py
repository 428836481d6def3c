"""EnginePool documents into pools."""

import pytest

from proserve_core.blocks.settings import KvOffload
from proserve_core.objectives import SecretKeyRef
from proserve_core.pools import ModelOrigin, ModelSource
from resource_builders import document, endpoint_pool, engine_pool, errors_of, parse, secret


def test_pool_of_engines_is_read() -> None:
    data = engine_pool(
        model={"name": "qwen", "uri": "hf://Qwen/Qwen2.5-14B", "maxModelLength": 4096},
        replicas=2,
        engine={"image": "engine:1", "args": ["--max-num-seqs=64"], "scheduler": {"policy": "priority"}},
        resources={"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "500m"}},
        routing={"policy": "min-load"},
    )
    data["metadata"]["annotations"] = {"proserve.dev/calibration": "h100-qwen2.5-14b"}
    (pool,) = parse(data).engine_pools
    assert pool.model.source == ModelSource(origin=ModelOrigin.HUGGING_FACE, location="Qwen/Qwen2.5-14B")
    assert (pool.model.name, pool.model.max_model_length, pool.replicas) == ("qwen", 4096, 2)
    assert (pool.engine.image, pool.engine.args) == ("engine:1", ("--max-num-seqs=64",))
    assert (pool.engine.batching_policy, pool.routing_policy) == ("priority", "min-load")
    assert (pool.resources.limits, pool.resources.requests) == ({"nvidia.com/gpu": "1"}, {"cpu": "500m"})
    assert pool.calibration == "h100-qwen2.5-14b"


def test_optional_fields_have_defaults() -> None:
    (pool,) = parse(engine_pool()).engine_pools
    assert (pool.replicas, pool.model.max_model_length, pool.endpoints) == (1, None, ())
    assert (pool.engine.batching_policy, pool.routing_policy) == ("recoverable-gain", "go-routing")
    assert pool.calibration == "cpu-tiny"


def test_pool_of_endpoints_is_read() -> None:
    endpoints = [
        {"url": "http://127.0.0.1:8000/"},
        {"url": "https://Models.example.com", "apiKey": {"secretKeyRef": {"name": "keys", "key": "server"}}},
        {"url": "http://[::1]:8001/Base/v1/"},
    ]
    (pool,) = parse(secret(server="sk-x"), engine_pool(model={"name": "m"}, endpoints=endpoints)).engine_pools
    assert [endpoint.url for endpoint in pool.endpoints] == [
        "http://127.0.0.1:8000",
        "https://models.example.com",
        "http://[::1]:8001/Base",
    ]
    assert pool.endpoints[1].api_key == SecretKeyRef(name="keys", key="server")
    assert (pool.replicas, pool.model.source) == (0, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": 1},
        {"engine": {}},
        {"resources": {}},
        {"model": {"name": "m", "uri": "generated://tiny"}},
        {"model": {"name": "m", "maxModelLength": 10}},
    ],
)
def test_endpoints_exclude_fields_of_engines_that_we_start(fields: dict[str, object]) -> None:
    data = endpoint_pool()
    data["spec"] |= fields
    (error,) = errors_of(data)
    assert "contradicts spec.endpoints" in error


def test_pool_says_where_its_model_comes_from() -> None:
    (error,) = errors_of(engine_pool(model={"name": "m"}))
    assert "spec.model.uri: is missing; say where engines load the model from" in error


@pytest.mark.parametrize("uri", ["generated://tiny", "hf://org/na.me-1", "file:///models/my model"])
def test_model_address_has_a_known_form(uri: str) -> None:
    assert errors_of(engine_pool(model={"name": "m", "uri": uri})) == []


@pytest.mark.parametrize("uri", ["tiny", "org/name", "hf://name", "file://models", "s3://bucket/x", "generated://", ""])
def test_other_model_addresses_are_refused(uri: str) -> None:
    (error,) = errors_of(engine_pool(model={"name": "m", "uri": uri}))
    assert "'hf://organisation/name' (Hugging Face)" in error


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8000", "is not a server's address"),
        ("ftp://host", "is not a server's address"),
        ("http://", "is not a server's address"),
        ("http://host:0", "is not a server's address"),
        ("http://host:65536", "is not a server's address"),
        ("http://ho st", "is not a server's address"),
        ("http://host\n", "is not a server's address"),
        ("http://host/a b", "is not a server's address"),
        ("http://host?x=1", "is not a server's address; write it as http://host:port, without query"),
    ],
)
def test_endpoint_is_the_address_of_a_server(url: str, says: str) -> None:
    (error,) = errors_of(endpoint_pool("outside", url))
    assert "spec.endpoints[0].url: " in error
    assert says in error


def test_password_in_an_endpoint_is_refused_without_showing_it() -> None:
    (error,) = errors_of(endpoint_pool("outside", "http://me:sesame@host"))
    assert "put the credential in a Secret" in error
    assert "sesame" not in error


def test_endpoint_listed_twice_is_refused() -> None:
    (error,) = errors_of(endpoint_pool("outside", "http://a:1", "http://b:1", "http://B:1/v1"))
    assert "spec.endpoints[2].url: 'http://B:1/v1' is listed twice" in error


def test_credential_of_an_endpoint_is_in_a_secret_of_the_pools_namespace() -> None:
    data = endpoint_pool()
    data["spec"]["endpoints"][0]["apiKey"] = {"secretKeyRef": {"name": "keys", "key": "server"}}
    (error,) = errors_of(data)
    assert "spec.endpoints[0].apiKey.secretKeyRef.name: there is no Secret 'keys'" in error


@pytest.mark.parametrize("argument", ["--max-model-len=5", "--max_model_len", "--port", "--served-model-name=x"])
def test_argument_that_another_field_sets_is_refused(argument: str) -> None:
    (error,) = errors_of(engine_pool(engine={"args": [argument]}))
    assert "is set by ProServe" in error


@pytest.mark.parametrize("argument", ["--key-file=/keys", "--key_file"])
def test_key_that_probes_and_gateways_do_not_know_is_refused(argument: str) -> None:
    (error,) = errors_of(engine_pool(engine={"args": [argument]}))
    assert f"spec.engine.args[0]: '{argument}' is set by ProServe" in error
    assert "set spec.engine.keys instead; proserve up makes a key for each run" in error


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("PROSERVE_ENGINE_KEY_FILE", "keys"),
        ("PROSERVE_ENGINE_TLS_CERT", "tls"),
        ("PROSERVE_ENGINE_TLS_KEY", "tls"),
    ],
)
def test_file_of_keys_or_certificates_that_is_set_by_hand_is_refused(variable: str, field: str) -> None:
    (error,) = errors_of(engine_pool(engine={"env": [{"name": variable, "value": "/file"}]}))
    assert f"spec.engine.env[0].name: '{variable}' is set by ProServe" in error
    assert f"set spec.engine.{field} instead" in error


def test_engines_may_ask_for_keys_of_a_secret() -> None:
    keys = {"secretKeyRef": {"name": "engine-keys", "key": "keys"}}
    (pool,) = parse(engine_pool(engine={"keys": keys})).engine_pools
    assert pool.engine.keys == SecretKeyRef(name="engine-keys", key="keys")


@pytest.mark.parametrize("argument", ["--tls-cert=/tls.crt", "--tls_key", "--ssl-certfile", "--ssl-keyfile=/tls.key"])
def test_certificate_that_probes_and_gateways_do_not_know_is_refused(argument: str) -> None:
    (error,) = errors_of(engine_pool(engine={"args": [argument]}))
    assert f"spec.engine.args[0]: '{argument}' is set by ProServe; set spec.engine.tls instead" in error


@pytest.mark.parametrize("argument", ["--ssl-cert-reqs=2", "--ssl_ca_certs"])
def test_engines_may_not_ask_for_certificates(argument: str) -> None:
    (error,) = errors_of(engine_pool(engine={"args": [argument]}))
    assert f"spec.engine.args[0]: '{argument}' is set by ProServe; gateways show no certificate" in error


def test_engines_may_serve_with_the_certificate_of_a_secret() -> None:
    (pool,) = parse(engine_pool(engine={"tls": {"secretName": "engine-tls"}})).engine_pools
    assert pool.engine.tls_secret == "engine-tls"
    (error,) = errors_of(engine_pool(engine={"tls": {}}))
    assert "spec.engine.tls.secretName" in error


@pytest.mark.parametrize("quantity", ["-1", "1.5.1", "4GiB", "", -1, 1.5, True, None, "1" * 100])
def test_resource_is_a_quantity(quantity: object) -> None:
    (error,) = errors_of(engine_pool(resources={"limits": {"memory": quantity}}))
    assert "spec.resources.limits[memory]: " in error


def test_kv_offload_is_read_with_its_defaults() -> None:
    (pool,) = parse(engine_pool(engine={"kvOffload": {"hostMemory": "1.5Gi"}})).engine_pools
    assert pool.engine.kv_offload == KvOffload(host_memory="1.5Gi")
    assert pool.engine.kv_offload.host_bytes == 3 * 2**29
    fields = {
        "hostMemory": "64Mi", "offload": "OnPreempt", "reload": "Blocking", "copyBudget": "Fixed", "copyBlocks": 8,
    }  # fmt: skip
    (pool,) = parse(engine_pool(engine={"kvOffload": fields})).engine_pools
    assert pool.engine.kv_offload is not None
    assert pool.engine.kv_offload.to_mapping() == fields


def test_without_kv_offload_nothing_is_kept() -> None:
    (pool,) = parse(engine_pool(engine={})).engine_pools
    assert pool.engine.kv_offload is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "hostMemory: is missing; add it: Host memory for KV blocks that one engine gets"),
        ({"hostMemory": "much"}, "hostMemory: got 'much'; expected a quantity such as 1, '500m' or '4Gi'"),
        ({"hostMemory": "0"}, "hostMemory: got '0'; expected a quantity from 1 to 1Pi"),
        ({"hostMemory": "500m"}, "hostMemory: got '500m'; expected a quantity from 1 to 1Pi"),
        ({"hostMemory": "1e99"}, "hostMemory: got '1e99'; expected a quantity from 1 to 1Pi"),
        ({"hostMemory": "1Gi", "offload": "async"}, "offload: 'async' is not a possible value; "),
        (
            {"hostMemory": "1Gi", "reload": "Lazy"},
            "reload: 'Lazy' is not a possible value; known here: Blocking, Pipelined",
        ),
        ({"hostMemory": "1Gi", "copyBudget": "All"}, "copyBudget: 'All' is not a possible value"),
        ({"hostMemory": "1Gi", "copyBudget": "Fixed", "copyBlocks": 0}, "copyBlocks: got 0; expected a whole number"),
        (
            {"hostMemory": "1Gi", "copyBlocks": 8},
            "copyBlocks: has no effect without copyBudget Fixed; set that, or remove it",
        ),
        ({"hostMemory": "1Gi", "hostmemory": "1Gi"}, "hostmemory: unknown field; did you mean 'hostMemory'?"),
    ],
)
def test_unusable_kv_offload_names_field_value_and_fix(fields: dict[str, object], says: str) -> None:
    (error,) = errors_of(engine_pool(engine={"kvOffload": fields}))
    assert f"spec.engine.kvOffload.{says}" in error


@pytest.mark.parametrize("argument", ["--kv-transfer-config={}", "--kv_transfer_config", "-kvt"])
def test_kv_offload_excludes_a_connector_of_the_users_own(argument: str) -> None:
    assert errors_of(engine_pool(engine={"args": [argument]})) == []
    (error,) = errors_of(engine_pool(engine={"args": [argument], "kvOffload": {"hostMemory": "1Gi"}}))
    assert "contradicts spec.engine.kvOffload; remove one of the two" in error


def test_unknown_policies_get_a_suggestion() -> None:
    errors = errors_of(engine_pool(engine={"scheduler": {"policy": "slidebatching"}}, routing={"policy": "gorouting"}))
    assert [error.split("; ")[1] for error in errors] == [
        "did you mean 'slide-batching'?",
        "did you mean 'go-routing'?",
    ]


def test_pool_name_is_a_single_label() -> None:
    assert len(errors_of(engine_pool("a.b"))) == 1


def test_two_pools_with_one_model_name_are_refused() -> None:
    (error,) = errors_of(engine_pool("a"), engine_pool("b"))
    assert "(EnginePool default/b): spec.model.name: 'tiny' is already served by test#1" in error


def test_pool_and_tenant_are_required_only_when_asked() -> None:
    assert errors_of(secret()) == []
    errors = errors_of(secret(), require_pools=True, require_tenants=True)
    assert [error.split("; ")[0] for error in errors] == [
        "resources: there is no EnginePool",
        "resources: there is no Tenant",
    ]


def test_unknown_calibration_gets_a_suggestion() -> None:
    data = document(
        "EnginePool", "a", annotations={"proserve.dev/calibration": "h100-llama-8b"}, spec=engine_pool()["spec"]
    )
    (error,) = errors_of(data)
    assert "metadata.annotations[proserve.dev/calibration]: 'h100-llama-8b' is not a possible value" in error
    assert error.endswith("did you mean 'h100-llama-3.1-8b'?")
