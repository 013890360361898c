"""Inspection: what a trained model remembers, as numbers and as a page for a browser.

Owns states, gates, units, reach, saliency, errors and the page. Refuses to know training and the terminal."""
