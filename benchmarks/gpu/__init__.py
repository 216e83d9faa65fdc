"""``make gpu``: what srtui does on the GPU of this machine, tested and measured in resumable parts."""
