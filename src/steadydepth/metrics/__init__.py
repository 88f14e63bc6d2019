"""Accuracy and steadiness of depth video: plain functions, the benchmarks' protocols as data, and the evaluator."""
