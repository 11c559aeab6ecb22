"""Depth for photos that have none: teachers, what they say, kept and brought to metres, and the data it makes."""

from spaceclip_plugin.teaching.record import TaughtRecord
from spaceclip_plugin.teaching.taught import TaughtData, TaughtDepth
from spaceclip_plugin.teaching.teach import TeachOptions, teach
from spaceclip_plugin.teaching.teacher import DepthTeacher, TeacherCard, load_teacher

__all__ = [
    "DepthTeacher",
    "TaughtData",
    "TaughtDepth",
    "TaughtRecord",
    "TeachOptions",
    "TeacherCard",
    "load_teacher",
    "teach",
]
