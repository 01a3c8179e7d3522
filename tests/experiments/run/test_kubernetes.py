"""A Kubernetes job without a cluster: its manifest's schema, and what JAX reads."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments.run import command_line

ROOT = Path(__file__).parents[3]
PATH = ROOT / "experiments" / "benchmarks" / "kubernetes.yaml"
DOCUMENTS = list(yaml.safe_load_all(PATH.read_text()))
BY_KIND = {document["kind"]: document for document in DOCUMENTS}
NAMESPACE = "default"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_each_part_has_the_schema_of_kubernetes(document):
  validate = pytest.importorskip("kubernetes_validate", reason="see tests/peers.txt")
  validate.validate(document, validate.latest_version(), strict=True)


def test_the_command_is_one_of_a_run():
  (container,) = BY_KIND["Job"]["spec"]["template"]["spec"]["containers"]
  assert container["command"] == ["python", "-m", "experiments.train"]
  config, workdir = container["args"]
  command_line.load_config(str(ROOT / config.removeprefix("--config=")), {})
  mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
  assert str(Path(workdir.removeprefix("--workdir=")).parent) in mounted


def as_object(value):
  """What the `kubernetes` package makes of a document, by the names that JAX uses."""
  names = {"clusterIP": "cluster_ip", "ownerReferences": "owner_references"}

  def join(pairs):
    plain = {names.get(name, name): entry for name, entry in pairs}
    return SimpleNamespace(**plain) if all(map(str.isidentifier, plain)) else plain

  return json.loads(json.dumps(value), object_pairs_hook=join)


def ask(group, verb, resource):
  """Fails where the pods' account may not ask that."""
  account = BY_KIND["Job"]["spec"]["template"]["spec"]["serviceAccountName"]
  (subject,) = BY_KIND["RoleBinding"]["subjects"]
  assert subject["name"] == account == BY_KIND["ServiceAccount"]["metadata"]["name"]
  assert (
    BY_KIND["RoleBinding"]["roleRef"]["name"] == BY_KIND["Role"]["metadata"]["name"]
  )
  assert any(
    group in rule["apiGroups"]
    and resource in rule["resources"]
    and verb in rule["verbs"]
    for rule in BY_KIND["Role"]["rules"]
  ), f"{verb} {resource}"


class Cluster:
  """Answers as a cluster would, in which the manifest was applied."""

  def list_namespaced_pod(self, **_):
    ask("", "list", "pods")
    job = BY_KIND["Job"]
    name = job["metadata"]["name"]
    template = job["spec"]["template"]
    pod = as_object({"metadata": {"name": f"{name}-2-x"}, "spec": template["spec"]})
    pod.metadata.labels = {**template["metadata"]["labels"], "job-name": name}
    pod.metadata.owner_references = [
      SimpleNamespace(controller=True, kind="Job", name=name)
    ]
    return SimpleNamespace(items=[pod])

  def list_namespaced_service(self, *_):
    ask("", "list", "services")
    service = as_object(BY_KIND["Service"])
    service.spec.selector = BY_KIND["Service"]["spec"]["selector"]
    return SimpleNamespace(items=[service])

  def read_namespaced_job(self, name, **_):
    ask("batch", "get", "jobs")
    assert name == BY_KIND["Job"]["metadata"]["name"]
    job = as_object(BY_KIND["Job"])
    job.metadata.labels = BY_KIND["Job"]["metadata"]["labels"]
    return job


def test_jax_finds_the_processes(monkeypatch):
  clusters = pytest.importorskip("jax._src.clusters.k8s_cluster")

  class Detected(clusters.K8sCluster):
    _core_api = _batch_api = Cluster()
    _ApiException = RuntimeError

    @classmethod
    def _namespace(cls):
      return NAMESPACE

  monkeypatch.setenv("HOSTNAME", "localhost")
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
  assert Detected.get_process_count() == 4
  assert Detected.get_process_id() == 2
  address = Detected.get_coordinator_address(None, None)
  # The first pod's name, in the domain of the service.
  service = BY_KIND["Service"]["metadata"]["name"]
  assert address.partition(":")[0] == f"ccl-jax-0.{service}"
  spec, service = BY_KIND["Job"]["spec"], Cluster().list_namespaced_service().items[0]
  assert spec["completionMode"] == "Indexed"
  assert spec["completions"] == spec["parallelism"]
  assert Detected._headless_svc().metadata.name == service.metadata.name
