# What invokes the function: every minute, and at events of RDS.

resource "aws_scheduler_schedule" "this" {
  name                = "${var.name}-hostname-targets"
  description         = "Invokes the function ${var.name}-hostname-targets every minute"
  schedule_expression = "rate(1 minute)"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.this.arn
    role_arn = local.role_arn

    # Until Lambda has taken the event; what comes then is aws_lambda_function_event_invoke_config's.
    retry_policy {
      maximum_retry_attempts       = 0
      maximum_event_age_in_seconds = 60
    }
  }

  depends_on = [aws_iam_role_policy.schedule]
}

# By itself, because the function needs the role, and this needs the function.
resource "aws_iam_role_policy" "schedule" {
  count = var.role_arn == "" ? 1 : 0

  name   = "schedule"
  role   = one(aws_iam_role.function[*].name)
  policy = data.aws_iam_policy_document.schedule.json
}

data "aws_iam_policy_document" "schedule" {
  statement {
    sid       = "Invoke"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.this.arn]
  }
}

resource "aws_cloudwatch_event_rule" "rds_events" {
  name        = "${var.name}-hostname-targets"
  description = "Invokes the function ${var.name}-hostname-targets at events of RDS"
  tags        = local.tags
  event_pattern = jsonencode({
    source = ["aws.rds"]
    "$or" = [
      merge(
        { detail-type = ["RDS DB Instance Event", "RDS DB Cluster Event", "RDS DB Proxy Event"] },
        # Not detail.SourceIdentifier, which AWS fills now with the identifier, now with rds: before it.
        { for key, value in { resources = var.database_arns } : key => value if length(value) > 0 },
        { for key, value in { detail = { EventCategories = ["failover", "availability"] } } : key => value if length(var.database_arns) == 0 },
      ),
      # It names the deployment alone, which is made anew for each switchover, and none of its databases.
      { detail-type = ["RDS Blue Green Deployment Event"] },
    ]
  })
}

resource "aws_cloudwatch_event_target" "rds_events" {
  rule      = aws_cloudwatch_event_rule.rds_events.name
  target_id = "Function"
  arn       = aws_lambda_function.this.arn

  # DNS moves up to minutes after the event, so a late one is still worth a watch.
  retry_policy {
    maximum_retry_attempts       = 5
    maximum_event_age_in_seconds = 300
  }
}

resource "aws_lambda_permission" "rds_events" {
  function_name = aws_lambda_function.this.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.rds_events.arn
}
