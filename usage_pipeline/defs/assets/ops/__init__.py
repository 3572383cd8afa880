"""`ops/*`: what keeps the pipeline small and checks it. It makes no usage."""
