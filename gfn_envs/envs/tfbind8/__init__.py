"""DNA words of eight letters and how strongly a transcription factor binds them."""
