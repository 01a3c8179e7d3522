"""Networks from images to embeddings; any of them can be swapped for your own."""
