"""Depth for photos that have none: teachers, what they say, kept and in metres, and the data and heads it makes."""

from spaceclip_plugin.teaching.record import TaughtRecord
from spaceclip_plugin.teaching.taught import TaughtData, TaughtDepth
from spaceclip_plugin.teaching.teach import TeachOptions, teach
from spaceclip_plugin.teaching.teacher import DepthTeacher, TeacherCard, load_teacher
from spaceclip_plugin.teaching.train_head import train_head

__all__ = [
    "DepthTeacher",
    "TaughtData",
    "TaughtDepth",
    "TaughtRecord",
    "TeachOptions",
    "TeacherCard",
    "load_teacher",
    "teach",
    "train_head",
]
