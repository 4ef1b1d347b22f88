"""Speed and deployment of finished models: ONNX files and timing."""
