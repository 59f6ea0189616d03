// Reads objects as a JSON array from stdin; writes, for each, what its kind's own schema finds wrong.
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const kinds = [HTTPRoute, ScaledObject, PodMonitor, PrometheusRule, ServiceMonitor];
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);

const faults = JSON.parse(Buffer.concat(chunks)).map((object) => {
  const Kind = kinds.find((each) => each.is(object));
  if (!Kind) return `no schema for ${object.apiVersion} ${object.kind}`;
  try {
    new Kind(object).validate();
    return null;
  } catch (error) {
    return String(error.message);
  }
});
process.stdout.write(JSON.stringify(faults));
