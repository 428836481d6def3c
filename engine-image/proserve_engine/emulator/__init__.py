"""An engine without a model: OpenAI HTTP and `/capacity` with a calibration's timing, from `proserve_core.replica`.

For tests, demos and trying out policies on a machine without vLLM or a GPU: the scheduling, the deadlines and the wire
formats are real, only the forward pass is replaced by waiting for as long as the calibrated model says it takes.
"""
