"""How good is a head? Metric depth scored as the field scores it, never aligned, and uncertainty that is checked."""

from spaceclip_plugin.evaluation.calibration import Calibration, calibrate
from spaceclip_plugin.evaluation.edges import EdgeMetrics, edge_metrics
from spaceclip_plugin.evaluation.evaluate import Evaluation, evaluate
from spaceclip_plugin.evaluation.metrics import DepthMetrics, depth_metrics, mean_metrics
from spaceclip_plugin.evaluation.prediction import predict
from spaceclip_plugin.evaluation.protocol import Protocol
from spaceclip_plugin.evaluation.protocols import PROTOCOLS, get_protocol
from spaceclip_plugin.evaluation.report import ReportFolder
from spaceclip_plugin.evaluation.video import VideoMetrics, video_metrics

__all__ = [
    "PROTOCOLS",
    "Calibration",
    "DepthMetrics",
    "EdgeMetrics",
    "Evaluation",
    "Protocol",
    "ReportFolder",
    "VideoMetrics",
    "calibrate",
    "depth_metrics",
    "edge_metrics",
    "evaluate",
    "get_protocol",
    "mean_metrics",
    "predict",
    "video_metrics",
]
