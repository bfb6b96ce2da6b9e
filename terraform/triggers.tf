# What invokes the function: every minute, and at events of the databases.

resource "aws_scheduler_schedule" "this" {
  name                = "${var.name}-hostname-targets"
  description         = "Invokes the function ${var.name}-hostname-targets every minute"
  schedule_expression = "rate(1 minute)"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.this.arn
    role_arn = var.scheduler_role_arn == "" ? one(aws_iam_role.scheduler[*].arn) : var.scheduler_role_arn

    # Until Lambda has taken the event; what comes then is aws_lambda_function_event_invoke_config's.
    retry_policy {
      maximum_retry_attempts       = 0
      maximum_event_age_in_seconds = 60
    }
  }

  depends_on = [aws_iam_role_policy.scheduler]
}

resource "aws_iam_role" "scheduler" {
  count = var.scheduler_role_arn == "" ? 1 : 0

  name                 = "${var.name}-hostname-targets-schedule"
  description          = "Lets EventBridge Scheduler invoke the function ${var.name}-hostname-targets"
  permissions_boundary = var.permissions_boundary_arn == "" ? null : var.permissions_boundary_arn
  assume_role_policy   = data.aws_iam_policy_document.scheduler_trust.json
  tags                 = local.tags
}

resource "aws_iam_role_policy" "scheduler" {
  count = var.scheduler_role_arn == "" ? 1 : 0

  name   = "invoke"
  role   = one(aws_iam_role.scheduler[*].name)
  policy = data.aws_iam_policy_document.scheduler.json
}

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "Invoke"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.this.arn]
  }
}

resource "aws_cloudwatch_event_rule" "rds_events" {
  count = length(var.database_arns) > 0 ? 1 : 0

  name        = "${var.name}-hostname-targets"
  description = "Invokes the function ${var.name}-hostname-targets at events of its databases"
  tags        = local.tags
  event_pattern = jsonencode({
    source = ["aws.rds"]
    "$or" = [
      {
        detail-type = ["RDS DB Instance Event", "RDS DB Cluster Event", "RDS DB Proxy Event"]
        # Not detail.SourceIdentifier, which AWS fills now with the identifier, now with rds: before it.
        resources = var.database_arns
      },
      # It names the deployment alone, which is made anew for each switchover, and none of its databases.
      { detail-type = ["RDS Blue Green Deployment Event"] },
    ]
  })
}

resource "aws_cloudwatch_event_target" "rds_events" {
  count = length(var.database_arns) > 0 ? 1 : 0

  rule      = one(aws_cloudwatch_event_rule.rds_events[*].name)
  target_id = "Function"
  arn       = aws_lambda_function.this.arn

  # DNS moves up to minutes after the event, so a late one is still worth a watch.
  retry_policy {
    maximum_retry_attempts       = 5
    maximum_event_age_in_seconds = 300
  }
}

resource "aws_lambda_permission" "rds_events" {
  count = length(var.database_arns) > 0 ? 1 : 0

  function_name = aws_lambda_function.this.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = one(aws_cloudwatch_event_rule.rds_events[*].arn)
}
