"""The HTTP servers of healthCheckNodePorts: a load balancer asks a node whether it has ready endpoints of a Service."""

from proxymode_agent.healthcheck.servers import HealthCheckServers as HealthCheckServers
