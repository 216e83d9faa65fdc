"""What is choosing worth? Strong models' real answers replayed as rewrites, through srtui's own pipeline.

    python -m benchmarks.evidence            # or: make evidence

Originals are alpaca-7b's answers to AlpacaEval's prompts. Two replays have other rewrites of them: ``strong``
Llama-3-70B-Instruct's, nearly all of them better; ``mixed`` text-davinci-003's, of which GPT-4 said one by one whether
they are better, so that a perfect choice can be trained on, too. Each arm is another way to choose; all are trained
alike, and judged by their loss on a third model's answers (gpt4_0613) to prompts that nothing was trained on, by
multiple choice, and by how far the choice itself agrees with GPT-4.

``arms`` says what is compared, ``data`` makes the data sets, ``work`` does the work, ``results`` keeps each part as it
is done, ``table`` makes the table. Whatever is killed resumes.
"""
