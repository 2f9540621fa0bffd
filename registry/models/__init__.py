"""What models the team has, how good they are, and which of them answer."""

from registry.models.catalogue import ModelVersion, RegisteredModel, Score, Stage, StageChange, VersionKind
from registry.models.serving import Deployment, DeploymentState, Engine, EngineState, Route, RouteArm

__all__ = [
    "Deployment",
    "DeploymentState",
    "Engine",
    "EngineState",
    "ModelVersion",
    "RegisteredModel",
    "Route",
    "RouteArm",
    "Score",
    "Stage",
    "StageChange",
    "VersionKind",
]
