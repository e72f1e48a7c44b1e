"""Judges manifests by the published Kubernetes schemas (strictly: unknown fields are errors) and by the list of fields
that an unmodified Knative takes; prints every document as one line of JSON for the judge of Knative's own schema."""

import json
import sys

import kubernetes_validate
import yaml

KUBERNETES = "1.33"
KNATIVE_FIELDS = {"containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"}
# What Knative's admission takes without a feature flag, and what it takes with one.
POD_FIELDS = {"automountServiceAccountToken", "containers", "enableServiceLinks", "imagePullSecrets", "serviceAccountName", "volumes"}
POD_FLAGS = {
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "tolerations": "kubernetes.podspec-tolerations",
}
CONTAINER_FIELDS = {
    "args", "command", "env", "envFrom", "image", "imagePullPolicy", "livenessProbe", "name", "ports", "readinessProbe",
    "resources", "securityContext", "startupProbe", "terminationMessagePath", "terminationMessagePolicy", "volumeMounts",
    "workingDir",
}
SECURITY_FIELDS = {
    "allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot",
    "runAsUser", "seccompProfile",
}
# emptyDir's flag is on in an unmodified Knative.
VOLUME_FIELDS = {"name", "secret", "configMap", "projected", "emptyDir"}
VOLUME_FLAGS = {
    "image": "kubernetes.podspec-volumes-image",
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
}

errors = []


def only(where, found, allowed, flags, enabled):
    for field in sorted(set(found) - allowed):
        flag = flags.get(field)
        if flag is None:
            errors.append(f"{where}.{field}: not a field that Knative takes")
        elif flag not in enabled:
            errors.append(f"{where}.{field}: needs {flag}, which no patch enables")


def strict(document):
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        errors.append(f"Kubernetes' schema of {document['kind']}: {path}: {error.message}")


def service(document, enabled):
    only("spec", document["spec"], {"template", "traffic"}, {}, enabled)
    if "template" not in document["spec"]:
        return
    template = document["spec"]["template"]
    only("spec.template", template, {"metadata", "spec"}, {}, enabled)
    pod = {key: value for key, value in template["spec"].items() if key not in KNATIVE_FIELDS}
    only("spec.template.spec", pod, POD_FIELDS, POD_FLAGS, enabled)
    for container in pod["containers"]:
        only("container", container, CONTAINER_FIELDS, {}, enabled)
        only("container.securityContext", container.get("securityContext", {}), SECURITY_FIELDS, {}, enabled)
    for volume in pod.get("volumes", []):
        only("volume", volume, VOLUME_FIELDS, VOLUME_FLAGS, enabled)
    metadata = {"name": "judged", **template.get("metadata", {})}
    strict({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})


def main():
    documents = list(yaml.safe_load_all(sys.stdin))
    maps = [document for document in documents if document["kind"] == "ConfigMap"]
    enabled = {key for document in maps for key, value in document["data"].items() if value == "enabled"}
    for document in maps:
        strict(document)
    for document in documents:
        if document["kind"] == "Service":
            service(document, enabled)
        print(json.dumps(document))
    for error in errors:
        print(error, file=sys.stderr)
    return 65 if errors else 0


sys.exit(main())
