"""From logits to text: settings, the token loop, beam search, text as it grows, and what is kept between prompts."""
